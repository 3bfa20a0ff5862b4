TITLE Slowly inactivating potassium current (Kv1-like, D type)

COMMENT
Current gbar m h (v - ek). Kinetics after Foust 2011 (J Neurosci 31:15490), no temperature factor:
    m: inf = 1 - 1/(1 + exp((v + 43)/8)), tau = 1
    h: inf = 1/(1 + exp((v + 67)/7.3)), tau = 1500

The steady states are kept with the voltage they belong to: the variable step solver asks for them twice.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Kd
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
    ek (mV)
    ik (mA/cm2)
    g (S/cm2)
    m_inf
    h_inf
    v_rates (mV)
}

STATE {
    m
    h
}

BREAKPOINT {
    CONDUCTANCE g USEION k
    SOLVE states METHOD cnexp
    g = gbar*m*h
    ik = g*(v - ek)
}

INITIAL {
    v_rates = v + 1
    rates(v)
    m = m_inf
    h = h_inf
}

DERIVATIVE states {
    rates(v)
    m' = m_inf - m
    h' = (h_inf - h)/1500
}

PROCEDURE rates(v (mV)) {
    if (v != v_rates) {
        v_rates = v
        m_inf = 1 - 1/(1 + exp((v + 43)/8))
        h_inf = 1/(1 + exp((v + 67)/7.3))
    }
}
