TITLE Fast, non-inactivating potassium current (Kv3.1)

COMMENT
Current gbar m (v - ek), the kinetics of the layer 5 models (Rettig 1992, EMBO J 11:2473), no temperature
factor:
    m: inf = 1/(1 + exp(-(v - 18.7)/9.7)), tau = 4/(1 + exp(-(v + 46.56)/44.14))

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Kv3_1
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
    m_tau (ms)
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
    v_rates = v + 1
    rates(v)
    m = m_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
}

PROCEDURE rates(v (mV)) {
    if (v != v_rates) {
        v_rates = v
        m_inf = 1/(1 + exp(-(v - 18.7)/9.7))
        m_tau = 4/(1 + exp(-(v + 46.56)/44.14))
    }
}
