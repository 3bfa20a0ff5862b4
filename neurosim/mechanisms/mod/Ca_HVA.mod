TITLE High-voltage activated calcium current

COMMENT
Current gbar m^2 h (v - eca). Kinetics after Reuveni 1993 (J Neurosci 13:4609), no temperature factor,
with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: alpha = 0.055 L(-(v + 27), 3.8), beta = 0.94 exp(-(v + 75)/17)
    h: alpha = 0.000457 exp(-(v + 13)/50), beta = 0.0065/(1 + exp(-(v + 15)/28))
    inf = alpha/(alpha + beta), tau = 1/(alpha + beta)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Ca_HVA
    USEION ca READ eca WRITE ica
    RANGE gbar, g, ica
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
    eca (mV)
    ica (mA/cm2)
    g (S/cm2)
    m_inf
    m_tau (ms)
    h_inf
    h_tau (ms)
    v_rates (mV)
}

STATE {
    m
    h
}

BREAKPOINT {
    CONDUCTANCE g USEION ca
    SOLVE states METHOD cnexp
    g = gbar*m*m*h
    ica = g*(v - eca)
}

INITIAL {
    v_rates = v + 1
    rates(v)
    m = m_inf
    h = h_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
    h' = (h_inf - h)/h_tau
}

PROCEDURE rates(v (mV)) { LOCAL x, a, b
    if (v != v_rates) {
        v_rates = v
        x = v + 27
        if (fabs(x) < 3.8e-6) {
            a = 0.055*(3.8 + x/2)
        } else {
            a = 0.055*x/(1 - exp(-x/3.8))
        }
        b = 0.94*exp(-(v + 75)/17)
        m_inf = a/(a + b)
        m_tau = 1/(a + b)
        a = 0.000457*exp(-(v + 13)/50)
        b = 0.0065/(1 + exp(-(v + 15)/28))
        h_inf = a/(a + b)
        h_tau = 1/(a + b)
    }
}
