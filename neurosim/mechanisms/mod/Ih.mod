TITLE Hyperpolarization-activated cation current

COMMENT
Current gbar m (v + 45), carried by no ion of the model. Kinetics after Kole 2006 (J Neurosci 26:1677), no
temperature factor, with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: alpha = 0.00643 L(v + 154.9, 11.9), beta = 0.193 exp(v/33.1)
    inf = alpha/(alpha + beta), tau = 1/(alpha + beta)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Ih
    NONSPECIFIC_CURRENT ihcn
    RANGE gbar, g, ihcn, ehcn
}

UNITS {
    (mV) = (millivolt)
    (mA) = (milliamp)
    (S) = (siemens)
}

PARAMETER {
    gbar = 1e-5 (S/cm2)
    ehcn = -45 (mV)
}

ASSIGNED {
    v (mV)
    ihcn (mA/cm2)
    g (S/cm2)
    m_inf
    m_tau (ms)
    v_rates (mV)
}

STATE {
    m
}

BREAKPOINT {
    CONDUCTANCE g
    SOLVE states METHOD cnexp
    g = gbar*m
    ihcn = g*(v - ehcn)
}

INITIAL {
    v_rates = v + 1
    rates(v)
    m = m_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
}

PROCEDURE rates(v (mV)) { LOCAL x, a, b
    if (v != v_rates) {
        v_rates = v
        x = v + 154.9
        if (fabs(x) < 11.9e-6) {
            a = 0.00643*(11.9 - x/2)
        } else {
            a = 0.00643*x/(exp(x/11.9) - 1)
        }
        b = 0.193*exp(v/33.1)
        m_inf = a/(a + b)
        m_tau = 1/(a + b)
    }
}
