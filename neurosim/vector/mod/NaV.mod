TITLE The sodium current NaV as its reactions alone

COMMENT
The chain of states and the rates of NaV among the project's mechanisms, where they are explained, without the
C++ that makes that file fast in NEURON. The vector engine is generated from this text.
ENDCOMMENT

NEURON {
    SUFFIX NaV
    USEION na READ ena WRITE ina
    RANGE gbar, g
}

UNITS {
    (mV) = (millivolt)
    (mA) = (milliamp)
    (S) = (siemens)
}

PARAMETER {
    gbar = 0.015 (S/cm2)
}

ASSIGNED {
    v (mV)
    celsius (degC)
    ena (mV)
    ina (mA/cm2)
    g (S/cm2)
    qt
    a (/ms)
    b (/ms)
}

STATE {
    C1
    C2
    C3
    C4
    C5
    O
    I1
    I2
    I3
    I4
    I5
    I6
}

BREAKPOINT {
    SOLVE chain METHOD sparse
    g = gbar*O
    ina = g*(v - ena)
}

INITIAL {
    qt = 2.3^((celsius - 37)/10)
    SOLVE chain STEADYSTATE sparse
}

KINETIC chain {
    rates(v)
    ~ C1 <-> C2 (4*a, b)
    ~ C2 <-> C3 (3*a, 2*b)
    ~ C3 <-> C4 (2*a, 3*b)
    ~ C4 <-> C5 (a, 4*b)
    ~ C5 <-> O (250*qt, 60*qt)
    ~ I1 <-> I2 (2.51*4*a, b/5.32)
    ~ I2 <-> I3 (2.51*3*a, 2*b/5.32)
    ~ I3 <-> I4 (2.51*2*a, 3*b/5.32)
    ~ I4 <-> I5 (2.51*a, 4*b/5.32)
    ~ I5 <-> I6 (250*qt, 60*qt)
    ~ C1 <-> I1 (0.01*qt, 40*qt)
    ~ C2 <-> I2 (0.01*2.51*qt, 40/5.32*qt)
    ~ C3 <-> I3 (0.01*2.51^2*qt, 40/5.32^2*qt)
    ~ C4 <-> I4 (0.01*2.51^3*qt, 40/5.32^3*qt)
    ~ C5 <-> I5 (0.01*2.51^4*qt, 40/5.32^4*qt)
    ~ O <-> I6 (8*qt, 0.05*qt)
    CONSERVE O + C5 + C4 + C3 + C2 + I6 + I5 + I4 + I3 + I2 + I1 + C1 = 1
}

PROCEDURE rates(v (mV)) {
    a = 400*exp(v/24)*qt
    b = 12*exp(-v/24)*qt
}
