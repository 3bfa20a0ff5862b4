TITLE Persistent sodium current with instantaneous activation, perisomatic models

COMMENT
Current gbar m_inf(v) h (v - ena). Kinetics after Magistretti & Alonso 1999 (J Gen Physiol 114:491),
with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: inf = 1/(1 + exp(-(v + 52.6)/4.6)), at once
    h: inf = 1/(1 + exp((v + 48.8)/10)), tau = 1/((alpha + beta) qt),
       alpha = 2.88e-6 L(v + 17, 4.63), beta = 6.94e-6 L(-(v + 64.4), 2.63)
    qt = 2.3^((celsius - 21)/10)

The conductance depends on the voltage at once, so its slope is left to the solver to find.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Nap
    USEION na READ ena WRITE ina
    RANGE gbar, g, ina
}

UNITS {
    (mV) = (millivolt)
    (mA) = (milliamp)
    (S) = (siemens)
}

PARAMETER {
    gbar = 1e-5 (S/cm2)
}

ASSIGNED {
    v (mV)
    celsius (degC)
    ena (mV)
    ina (mA/cm2)
    g (S/cm2)
    h_inf
    h_tau (ms)
    qt
    v_rates (mV)
}

STATE {
    h
}

BREAKPOINT {
    SOLVE states METHOD cnexp
    g = gbar*h/(1 + exp(-(v + 52.6)/4.6))
    ina = g*(v - ena)
}

INITIAL {
    qt = 2.3^((celsius - 21)/10)
    v_rates = v + 1
    rates(v)
    h = h_inf
}

DERIVATIVE states {
    rates(v)
    h' = (h_inf - h)/h_tau
}

PROCEDURE rates(v (mV)) { LOCAL x, a, b
    if (v != v_rates) {
        v_rates = v
        x = v + 17
        if (fabs(x) < 4.63e-6) {
            a = 2.88e-6*(4.63 - x/2)
        } else {
            a = 2.88e-6*x/(exp(x/4.63) - 1)
        }
        x = v + 64.4
        if (fabs(x) < 2.63e-6) {
            b = 6.94e-6*(2.63 + x/2)
        } else {
            b = 6.94e-6*x/(1 - exp(-x/2.63))
        }
        h_inf = 1/(1 + exp((v + 48.8)/10))
        h_tau = 1/((a + b)*qt)
    }
}
