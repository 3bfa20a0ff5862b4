TITLE Low-voltage activated calcium current

COMMENT
Current gbar m^2 h (v - eca). Kinetics after Avery & Johnston 1996 (J Neurosci 16:5567) and
Randall & Tsien 1997 (Neuropharmacology 36:879), with u = v + 10:
    m: inf = 1/(1 + exp(-(u + 30)/6)), tau = (5 + 20/(1 + exp((u + 25)/5)))/qt
    h: inf = 1/(1 + exp((u + 80)/6.4)), tau = (20 + 50/(1 + exp((u + 40)/7)))/qt
    qt = 2.3^((celsius - 21)/10)

The rates are kept with the voltage they belong to: the variable step solver asks for them twice per step.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX Ca_LVA
    USEION ca READ eca WRITE ica
    RANGE gbar, g, ica
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
    eca (mV)
    ica (mA/cm2)
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
    CONDUCTANCE g USEION ca
    SOLVE states METHOD cnexp
    g = gbar*m*m*h
    ica = g*(v - eca)
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

PROCEDURE rates(v (mV)) { LOCAL u
    if (v != v_rates) {
        v_rates = v
        u = v + 10
        m_inf = 1/(1 + exp(-(u + 30)/6))
        m_tau = (5 + 20/(1 + exp((u + 25)/5)))/qt
        h_inf = 1/(1 + exp((u + 80)/6.4))
        h_tau = (20 + 50/(1 + exp((u + 40)/7)))/qt
    }
}
