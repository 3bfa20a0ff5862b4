TITLE Transient sodium current, somatic kinetics, perisomatic models

COMMENT
Current gbar m^3 h (v - ena). Kinetics after Colbert & Pan 2002 (Nat Neurosci 5:533),
with L(x, k) = x/(exp(x/k) - 1), which tends to k - x/2 at x = 0:
    m: alpha = 0.182 L(-(v + 40), 6), beta = 0.124 L(v + 40, 6)
    h: alpha = 0.015 L(v + 66, 6), beta = 0.015 L(-(v + 66), 6)
    inf = alpha/(alpha + beta), tau = 1/((alpha + beta) qt),
    qt = 2.3^((celsius - 23)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX NaTs
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
    celsius (degC)
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
    qt = 2.3^((celsius - 23)/10)
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
        x = v + 40
        if (fabs(x) < 6e-6) {
            a = 0.182*(6 + x/2)
            b = 0.124*(6 - x/2)
        } else {
            e = exp(x/6)
            a = 0.182*x/(1 - 1/e)
            b = 0.124*x/(e - 1)
        }
        m_inf = a/(a + b)
        m_tau = 1/((a + b)*qt)
        x = v + 66
        if (fabs(x) < 6e-6) {
            b = 0.015*(6 + x/2)
            a = 0.015*(6 - x/2)
        } else {
            e = exp(x/6)
            b = 0.015*x/(1 - 1/e)
            a = 0.015*x/(e - 1)
        }
        h_inf = a/(a + b)
        h_tau = 1/((a + b)*qt)
    }
}
