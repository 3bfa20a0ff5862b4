TITLE Transient potassium current

COMMENT
Current gbar m^4 h (v - ek). Kinetics after Korngreen & Sakmann 2000 (J Physiol 525:621), with u = v + 10:
    m: inf = 1/(1 + exp(-u/19)), tau = (0.34 + 0.92 exp(-((u + 71)/59)^2))/qt
    h: inf = 1/(1 + exp((u + 66)/10)), tau = (8 + 49 exp(-((u + 73)/23)^2))/qt
    qt = 2.3^1.3 whatever the temperature (34 against 21 degC)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX K_Tst
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
    h_inf
    h_tau (ms)
    qt
    v_rates (mV)
}

STATE {
    m
    h
}

BREAKPOINT {
    CONDUCTANCE g USEION k
    SOLVE states METHOD cnexp
    g = gbar*m*m*m*m*h
    ik = g*(v - ek)
}

INITIAL {
    qt = 2.3^1.3
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

PROCEDURE rates(v (mV)) { LOCAL u, x
    if (v != v_rates) {
        v_rates = v
        u = v + 10
        m_inf = 1/(1 + exp(-u/19))
        x = (u + 71)/59
        m_tau = (0.34 + 0.92*exp(-x*x))/qt
        h_inf = 1/(1 + exp((u + 66)/10))
        x = (u + 73)/23
        h_tau = (8 + 49*exp(-x*x))/qt
    }
}
