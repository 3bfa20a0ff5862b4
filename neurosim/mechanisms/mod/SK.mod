TITLE Calcium-activated potassium current of small conductance

COMMENT
Current gbar z (v - ek). Kinetics after Kohler 1996 (Science 273:1709), no temperature factor:
    z: inf = 1/(1 + (0.00043/cai)^4.8), tau = 1; below 1e-7 mM the concentration counts 1e-7 more,
    and z_inf is 0 where even that is not positive (a trial step of the solver may overshoot zero).
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX SK
    USEION k READ ek WRITE ik
    USEION ca READ cai
    RANGE gbar, g, ik
}

UNITS {
    (mV) = (millivolt)
    (mA) = (milliamp)
    (mM) = (milli/liter)
    (S) = (siemens)
}

PARAMETER {
    gbar = 1e-6 (S/cm2)
}

ASSIGNED {
    v (mV)
    ek (mV)
    ik (mA/cm2)
    cai (mM)
    g (S/cm2)
    z_inf
    cai_rates (mM)
}

STATE {
    z
}

BREAKPOINT {
    CONDUCTANCE g USEION k
    SOLVE states METHOD cnexp
    g = gbar*z
    ik = g*(v - ek)
}

INITIAL {
    cai_rates = cai + 1
    rates(cai)
    z = z_inf
}

DERIVATIVE states {
    rates(cai)
    z' = z_inf - z
}

PROCEDURE rates(cai (mM)) { LOCAL c
    if (cai != cai_rates) {
        cai_rates = cai
        c = cai
        if (c < 1e-7) {
            c = c + 1e-7
        }
        if (c > 0) {
            z_inf = 1/(1 + (0.00043/c)^4.8)
        } else {
            z_inf = 0
        }
    }
}
