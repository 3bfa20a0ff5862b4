TITLE Calcium pool under the membrane

COMMENT
One shell of the given depth takes in a share gamma of the calcium current and leads it off with one time
constant (after Destexhe 1994, J Comput Neurosci 1:195):
    d cai/dt = -10^4 gamma ica/(2 F depth) - (cai - minCai)/decay
The concentration is some 1e-4 mM: its absolute tolerance is scaled down to match.
ENDCOMMENT

NEURON {
    THREADSAFE
    SUFFIX CaDynamics
    USEION ca READ ica WRITE cai
    RANGE gamma, decay, depth, minCai
}

UNITS {
    (mV) = (millivolt)
    (mA) = (milliamp)
    (um) = (micron)
    (mM) = (milli/liter)
    FARADAY = (faraday) (coulombs)
}

PARAMETER {
    gamma = 0.05
    decay = 80 (ms)
    depth = 0.1 (um)
    minCai = 1e-4 (mM)
}

ASSIGNED {
    ica (mA/cm2)
}

STATE {
    cai (mM) <1e-4>
}

BREAKPOINT {
    SOLVE states METHOD cnexp
}

INITIAL {
    cai = minCai
}

DERIVATIVE states {
    cai' = -(10000)*gamma*ica/(2*FARADAY*depth) - (cai - minCai)/decay
}
