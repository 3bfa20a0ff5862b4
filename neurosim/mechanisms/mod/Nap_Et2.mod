TITLE Persistent sodium current

COMMENT
Current gbar m^3 h (v - ena). Kinetics after Magistretti & Alonso 1999 (J Gen Physiol 114:491),
with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: inf = 1/(1 + exp(-(v + 52.6)/4.6)), tau = 6/((alpha + beta) qt),
       alpha = 0.182 L(-(v + 38), 6), beta = 0.124 L(v + 38, 6)
    h: inf = 1/(1 + exp((v + 48.8)/10)), tau = 1/((alpha + beta) qt),
       alpha = 2.88e-6 L(v + 17, 4.63), beta = 6.94e-6 L(-(v + 64.4), 2.63)
    qt = 2.3^1.3 whatever the temperature (34 against 21 degC)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Nap_Et2
    USEION na READ ena WRITE ina
    RANGE gbar, g, ina
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
    ena (mV)
    ina (mA/cm2)
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
    CONDUCTANCE g USEION na
    SOLVE states METHOD cnexp
    g = gbar*m*m*m*h
    ina = g*(v - ena)
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

PROCEDURE rates(v (mV)) { LOCAL x, e, a, b
    if (v != v_rates) {
        v_rates = v
        x = v + 38
        if (fabs(x) < 6e-6) {
            a = 0.182*(6 + x/2)
            b = 0.124*(6 - x/2)
        } else {
            e = exp(x/6)
            a = 0.182*x/(1 - 1/e)
            b = 0.124*x/(e - 1)
        }
        m_inf = 1/(1 + exp(-(v + 52.6)/4.6))
        m_tau = 6/((a + b)*qt)
        x = v + 17
        if (fabs(x) < 4.63e-6) {
            a = 2.88e-6*(4.63 - x/2)
        } else {
            a = 2.88e-6*x/(exp(x/4.63) - 1)
        }
        x = v + 64.4
        if (fabs(x) < 2.63e-6) {
            b = 6.94e-6*(2.63 + x/2)
        } else {
            b = 6.94e-6*x/(1 - exp(-x/2.63))
        }
        h_inf = 1/(1 + exp((v + 48.8)/10))
        h_tau = 1/((a + b)*qt)
    }
}
