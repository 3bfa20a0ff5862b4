TITLE Muscarinic potassium current, second version

COMMENT
Current gbar m (v - ek). Kinetics after Vervaeke 2006 (J Physiol 576:235):
    m: alpha = 0.007 exp(2.4 (v + 48)/26.12), beta = 0.007 exp(-3.6 (v + 48)/26.12)
    inf = alpha/(alpha + beta), tau = (15 + 1/(alpha + beta))/qt, qt = 2.3^((celsius - 30)/10)
Both rates are powers of one exponential.

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Im_v2
    USEION k READ ek WRITE ik
    RANGE gbar, g, ik
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
    ek (mV)
    ik (mA/cm2)
    g (S/cm2)
    m_inf
    m_tau (ms)
    qt
    v_rates (mV)
}

STATE {
    m
}

BREAKPOINT {
    CONDUCTANCE g USEION k
    SOLVE states METHOD cnexp
    g = gbar*m
    ik = g*(v - ek)
}

INITIAL {
    qt = 2.3^((celsius - 30)/10)
    v_rates = v + 1
    rates(v)
    m = m_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
}

PROCEDURE rates(v (mV)) { LOCAL e, a, b
    if (v != v_rates) {
        v_rates = v
        e = exp(1.2*(v + 48)/26.12)
        a = 0.007*e*e
        b = 0.007/(e*e*e)
        m_inf = a/(a + b)
        m_tau = (15 + 1/(a + b))/qt
    }
}
