TITLE Persistent potassium current

COMMENT
Current gbar m^2 h (v - ek). Kinetics after Korngreen & Sakmann 2000 (J Physiol 525:621), with u = v + 10:
    m: inf = 1/(1 + exp(-(u + 1)/12)), tau = (1.25 + 175.03 exp(0.026 u))/qt for u < -50
       and (1.25 + 13 exp(-0.026 u))/qt above
    h: inf = 1/(1 + exp((u + 54)/11)), tau = (360 + (1010 + 24 (u + 55)) exp(-((u + 75)/48)^2))/qt
    qt = 2.3^1.3 whatever the temperature (34 against 21 degC)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX K_Pst
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
    g = gbar*m*m*h
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
        m_inf = 1/(1 + exp(-(u + 1)/12))
        if (u < -50) {
            m_tau = (1.25 + 175.03*exp(0.026*u))/qt
        } else {
            m_tau = (1.25 + 13*exp(-0.026*u))/qt
        }
        h_inf = 1/(1 + exp((u + 54)/11))
        x = (u + 75)/48
        h_tau = (360 + (1010 + 24*(u + 55))*exp(-x*x))/qt
    }
}
