TITLE Persistent potassium current, perisomatic models

COMMENT
Current gbar m^2 h (v - ek). Kinetics after Korngreen & Sakmann 2000 (J Physiol 525:621):
    m: inf = 1/(1 + exp(-(v + 14.3)/14.6)), tau = (1.25 + 175.03 exp(0.026 v))/qt for v < -50
       and (1.25 + 13 exp(-0.026 v))/qt above
    h: inf = 1/(1 + exp((v + 54)/11)), tau = (360 + (1010 + 24 (v + 55)) exp(-((v + 75)/48)^2))/qt
    qt = 2.3^((celsius - 21)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX K_P
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
    g = gbar*m*m*h
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
        m_inf = 1/(1 + exp(-(v + 14.3)/14.6))
        if (v < -50) {
            m_tau = (1.25 + 175.03*exp(0.026*v))/qt
        } else {
            m_tau = (1.25 + 13*exp(-0.026*v))/qt
        }
        h_inf = 1/(1 + exp((v + 54)/11))
        x = (v + 75)/48
        h_tau = (360 + (1010 + 24*(v + 55))*exp(-x*x))/qt
    }
}
