TITLE Transient potassium current, perisomatic models

COMMENT
Current gbar m^4 h (v - ek). Kinetics after Korngreen & Sakmann 2000 (J Physiol 525:621):
    m: inf = 1/(1 + exp(-(v + 47)/29)), tau = (0.34 + 0.92 exp(-((v + 71)/59)^2))/qt
    h: inf = 1/(1 + exp((v + 66)/10)), tau = (8 + 49 exp(-((v + 73)/23)^2))/qt
    qt = 2.3^((celsius - 21)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX K_T
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
    qt = 2.3^((celsius - 21)/10)
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

PROCEDURE rates(v (mV)) { LOCAL x
    if (v != v_rates) {
        v_rates = v
        m_inf = 1/(1 + exp(-(v + 47)/29))
        x = (v + 71)/59
        m_tau = (0.34 + 0.92*exp(-x*x))/qt
        h_inf = 1/(1 + exp((v + 66)/10))
        x = (v + 73)/23
        h_tau = (8 + 49*exp(-x*x))/qt
    }
}
