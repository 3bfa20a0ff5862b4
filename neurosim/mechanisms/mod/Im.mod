TITLE Muscarinic potassium current

COMMENT
Current gbar m (v - ek). Kinetics after Adams 1982 (J Physiol 330:537):
    m: alpha = 0.0033 exp(0.1 (v + 35)), beta = 0.0033 exp(-0.1 (v + 35))
    inf = alpha/(alpha + beta), tau = 1/((alpha + beta) qt), qt = 2.3^((celsius - 21)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Im
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
    qt = 2.3^((celsius - 21)/10)
    v_rates = v + 1
    rates(v)
    m = m_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
}

PROCEDURE rates(v (mV)) { LOCAL a, b
    if (v != v_rates) {
        v_rates = v
        a = exp(0.1*(v + 35))
        b = 1/a
        m_inf = a/(a + b)
        m_tau = 1/(0.0033*(a + b)*qt)
    }
}
