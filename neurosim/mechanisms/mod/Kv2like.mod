TITLE Delayed rectifier with two inactivation rates (Kv2-like)

COMMENT
Current gbar m^2 (h1 + h2)/2 (v - ek). Kinetics after Keren 2005 (J Neurophysiol 94:3730) and
Liu & Bean 2014 (J Neurosci 34:4991), with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: inf = alpha/(alpha + beta), tau = 2.5/((alpha + beta) qt),
       alpha = 0.12 L(-(v - 43), 11), beta = 0.02 exp(-(v + 1.27)/120)
    h1, h2: inf = 1/(1 + exp((v + 58)/11)),
       tau1 = (360 + (1010 + 23.7 (v + 54)) exp(-((v + 75)/48)^2))/qt
       tau2 = (2350 + 1380 exp(-0.011 v) - 210 exp(-0.03 v))/qt, and 0.001 where that is negative
    qt = 2.3^((celsius - 21)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Kv2like
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
    h1_tau (ms)
    h2_tau (ms)
    qt
    v_rates (mV)
}

STATE {
    m
    h1
    h2
}

BREAKPOINT {
    CONDUCTANCE g USEION k
    SOLVE states METHOD cnexp
    g = gbar*m*m*(h1 + h2)/2
    ik = g*(v - ek)
}

INITIAL {
    qt = 2.3^((celsius - 21)/10)
    v_rates = v + 1
    rates(v)
    m = m_inf
    h1 = h_inf
    h2 = h_inf
}

DERIVATIVE states {
    rates(v)
    m' = (m_inf - m)/m_tau
    h1' = (h_inf - h1)/h1_tau
    h2' = (h_inf - h2)/h2_tau
}

PROCEDURE rates(v (mV)) { LOCAL x, a, b
    if (v != v_rates) {
        v_rates = v
        x = v - 43
        if (fabs(x) < 11e-6) {
            a = 0.12*(11 + x/2)
        } else {
            a = 0.12*x/(1 - exp(-x/11))
        }
        b = 0.02*exp(-(v + 1.27)/120)
        m_inf = a/(a + b)
        m_tau = 2.5/((a + b)*qt)
        h_inf = 1/(1 + exp((v + 58)/11))
        x = (v + 75)/48
        h1_tau = (360 + (1010 + 23.7*(v + 54))*exp(-x*x))/qt
        h2_tau = (2350 + 1380*exp(-0.011*v) - 210*exp(-0.03*v))/qt
        if (h2_tau < 0) {
            h2_tau = 1e-3
        }
    }
}
