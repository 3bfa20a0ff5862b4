TITLE Sodium current as a Markov chain of twelve states

COMMENT
Current gbar O (v - ena). Kinetics after Carter, Giessel, Sabatini & Bean 2012 (Neuron 75:1081): an upper row
C1..C5, O and an inactivated lower row I1..I6. With a = 400 exp(v/24) and b = 12 exp(-v/24) (per ms), and
all rates times qt = 2.3^((celsius - 37)/10):
    C_k -> C_k+1: (5 - k) a, back k b (k = 1..4);       C5 -> O: 250, back 60
    I_k -> I_k+1: 2.51 (5 - k) a, back k b/5.32;        I5 -> I6: 250, back 60
    C_k -> I_k: 0.01 2.51^(k-1), back 40/5.32^(k-1);    O -> I6: 8, back 0.05
The chain starts in the steady state at the initial voltage.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX NaV
    USEION na READ ena WRITE ina
    RANGE gbar, g, ina
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
    f (/ms)
    b (/ms)
    fi (/ms)
    bi (/ms)
    v_rates (mV)
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
    CONDUCTANCE g USEION na
    SOLVE chain METHOD sparse
    g = gbar*O
    ina = g*(v - ena)
}

INITIAL {
    qt = 2.3^((celsius - 37)/10)
    v_rates = v + 1
    SOLVE chain STEADYSTATE sparse
}

KINETIC chain {
    rates(v)
    ~ C1 <-> C2 (4*f, b)
    ~ C2 <-> C3 (3*f, 2*b)
    ~ C3 <-> C4 (2*f, 3*b)
    ~ C4 <-> C5 (f, 4*b)
    ~ C5 <-> O (250*qt, 60*qt)
    ~ I1 <-> I2 (4*fi, bi)
    ~ I2 <-> I3 (3*fi, 2*bi)
    ~ I3 <-> I4 (2*fi, 3*bi)
    ~ I4 <-> I5 (fi, 4*bi)
    ~ I5 <-> I6 (250*qt, 60*qt)
    ~ C1 <-> I1 (0.01*qt, 40*qt)
    ~ C2 <-> I2 (0.01*2.51*qt, 40/5.32*qt)
    ~ C3 <-> I3 (0.01*2.51*2.51*qt, 40/(5.32*5.32)*qt)
    ~ C4 <-> I4 (0.01*2.51*2.51*2.51*qt, 40/(5.32*5.32*5.32)*qt)
    ~ C5 <-> I5 (0.01*2.51*2.51*2.51*2.51*qt, 40/(5.32*5.32*5.32*5.32)*qt)
    ~ O <-> I6 (8*qt, 0.05*qt)
    CONSERVE C1 + C2 + C3 + C4 + C5 + O + I1 + I2 + I3 + I4 + I5 + I6 = 1
}

PROCEDURE rates(v (mV)) { LOCAL e
    if (v != v_rates) {
        v_rates = v
        e = exp(v/24)
        f = 400*e*qt
        b = 12/e*qt
        fi = 2.51*f
        bi = b/5.32
    }
}
