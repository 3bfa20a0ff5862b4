TITLE Sodium current as a Markov chain of twelve states

COMMENT
Current gbar O (v - ena). Kinetics after Carter, Giessel, Sabatini & Bean 2012 (Neuron 75:1081): an upper row
C1..C5, O and an inactivated lower row I1..I6. With a = 400 exp(v/24) and b = 12 exp(-v/24) (per ms), and
all rates times qt = 2.3^((celsius - 37)/10):
    C_k -> C_k+1: (5 - k) a, back k b (k = 1..4);       C5 -> O: 250, back 60
    I_k -> I_k+1: 2.51 (5 - k) a, back k b/5.32;        I5 -> I6: 250, back 60
    C_k -> I_k: 0.01 2.51^(k-1), back 40/5.32^(k-1);    O -> I6: 8, back 0.05
The chain starts in the steady state at the initial voltage.

A KINETIC block says the same, but its general sparse solver takes half the time of a cell with this channel.
The chain is a ladder of six rungs, so that (1 - dt Q) x = y, with Q the matrix of rates, is solved from rung
to rung with blocks of two. NEURON makes three functions of a DERIVATIVE block: one gives the slopes to the
variable step solver; one solves its linear system, in place, for the values that stand in the derivatives; and
one takes a fixed step. VERBATIM text is left out of the second: that is how `chain` tells them apart.
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
    a (/ms)
    b (/ms)
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

VERBATIM
extern int cvode_active_, secondorder;
namespace {
/* The rates of the ladder: along both rows, and down and up its rungs (per ms). */
struct Ladder {
    double forth[2][5], back[2][5], down[6], up[6];

    Ladder(double opening, double closing, double factor) {
        static const double to_lower[6] = {0.01, 0.01*2.51, 0.01*2.51*2.51, 0.01*2.51*2.51*2.51,
                                           0.01*2.51*2.51*2.51*2.51, 8};
        static const double to_upper[6] = {40, 40/5.32, 40/(5.32*5.32), 40/(5.32*5.32*5.32),
                                           40/(5.32*5.32*5.32*5.32), 0.05};
        for (int k = 0; k < 4; ++k) {
            forth[0][k] = (4 - k)*opening;
            back[0][k] = (k + 1)*closing;
            forth[1][k] = 2.51*forth[0][k];
            back[1][k] = (1/5.32)*back[0][k];
        }
        forth[0][4] = forth[1][4] = 250*factor;
        back[0][4] = back[1][4] = 60*factor;
        for (int k = 0; k < 6; ++k) {
            down[k] = to_lower[k]*factor;
            up[k] = to_upper[k]*factor;
        }
    }

    /* slopes = Q states */
    void differentiate(const double (&states)[2][6], double (&slopes)[2][6]) const {
        for (int k = 0; k < 6; ++k) {
            slopes[1][k] = down[k]*states[0][k] - up[k]*states[1][k];
            slopes[0][k] = -slopes[1][k];
        }
        for (int row = 0; row < 2; ++row)
            for (int k = 0; k < 5; ++k) {
                const double flux = forth[row][k]*states[row][k] - back[row][k]*states[row][k + 1];
                slopes[row][k] -= flux;
                slopes[row][k + 1] += flux;
            }
    }

    /* x <- (1 - step Q)^-1 x: block elimination forth, substitution back; [00 01; 10 11] inverts a block */
    void solve(double step, double (&x)[2][6]) const {
        double inv00[6], inv01[6], inv10[6], inv11[6];
        for (int k = 0; k < 6; ++k) {
            double upper = 1 + step*(down[k] + (k < 5 ? forth[0][k] : 0));
            double lower = 1 + step*(up[k] + (k < 5 ? forth[1][k] : 0));
            double from_lower = -step*up[k], from_upper = -step*down[k];
            if (k > 0) {
                const int j = k - 1;
                const double f0 = step*forth[0][j], f1 = step*forth[1][j];
                const double b0 = step*back[0][j], b1 = step*back[1][j];
                upper += b0 - f0*b0*inv00[j];
                from_lower -= f0*b1*inv01[j];
                from_upper -= f1*b0*inv10[j];
                lower += b1 - f1*b1*inv11[j];
                x[0][k] += f0*(inv00[j]*x[0][j] + inv01[j]*x[1][j]);
                x[1][k] += f1*(inv10[j]*x[0][j] + inv11[j]*x[1][j]);
            }
            const double scale = 1/(upper*lower - from_lower*from_upper);
            inv00[k] = lower*scale;
            inv01[k] = -from_lower*scale;
            inv10[k] = -from_upper*scale;
            inv11[k] = upper*scale;
        }
        for (int k = 5; k >= 0; --k) {
            double y0 = x[0][k], y1 = x[1][k];
            if (k < 5) {
                y0 += step*back[0][k]*x[0][k + 1];
                y1 += step*back[1][k]*x[1][k + 1];
            }
            x[0][k] = inv00[k]*y0 + inv01[k]*y1;
            x[1][k] = inv10[k]*y0 + inv11[k]*y1;
        }
    }
};
}
ENDVERBATIM

BREAKPOINT {
    CONDUCTANCE g USEION na
    SOLVE chain METHOD cnexp
    g = gbar*O
    ina = g*(v - ena)
}

INITIAL { LOCAL sum
    qt = 2.3^((celsius - 37)/10)
    v_rates = v + 1
    rates(v)
VERBATIM
    {
    /* long implicit steps lead to the steady state; their length is kept below where rounding would tell */
    double x[2][6] = {{1}};
    const Ladder ladder(a, b, qt);
    for (int step = 0; step < 10; ++step) ladder.solve(1e4, x);
    C1 = x[0][0]; C2 = x[0][1]; C3 = x[0][2]; C4 = x[0][3]; C5 = x[0][4]; O = x[0][5];
    I1 = x[1][0]; I2 = x[1][1]; I3 = x[1][2]; I4 = x[1][3]; I5 = x[1][4]; I6 = x[1][5];
    }
ENDVERBATIM
    sum = C1 + C2 + C3 + C4 + C5 + O + I1 + I2 + I3 + I4 + I5 + I6
    C1 = C1/sum
    C2 = C2/sum
    C3 = C3/sum
    C4 = C4/sum
    C5 = C5/sum
    O = O/sum
    I1 = I1/sum
    I2 = I2/sum
    I3 = I3/sum
    I4 = I4/sum
    I5 = I5/sum
    I6 = I6/sum
}

DERIVATIVE chain { LOCAL linear, c1, c2, c3, c4, c5, o, i1, i2, i3, i4, i5, i6
    rates(v)
    linear = 1
VERBATIM
    {
    const Ladder ladder(a, b, qt);
    const double states[2][6] = {{C1, C2, C3, C4, C5, O}, {I1, I2, I3, I4, I5, I6}};
    double slopes[2][6];
    ladder.differentiate(states, slopes);
    /* the change of an implicit step, by dt; at second order that of half the step holds for all of it */
    if (!cvode_active_) ladder.solve(secondorder ? dt/2 : dt, slopes);
    _lc1 = slopes[0][0]; _lc2 = slopes[0][1]; _lc3 = slopes[0][2];
    _lc4 = slopes[0][3]; _lc5 = slopes[0][4]; _lo = slopes[0][5];
    _li1 = slopes[1][0]; _li2 = slopes[1][1]; _li3 = slopes[1][2];
    _li4 = slopes[1][3]; _li5 = slopes[1][4]; _li6 = slopes[1][5];
    _llinear = 0;
    }
ENDVERBATIM
    if (linear) {
        solve_linear_system()
    }
    C1' = c1
    C2' = c2
    C3' = c3
    C4' = c4
    C5' = c5
    O' = o
    I1' = i1
    I2' = i2
    I3' = i3
    I4' = i4
    I5' = i5
    I6' = i6
}

PROCEDURE solve_linear_system() {
VERBATIM
    double x[2][6] = {{DC1, DC2, DC3, DC4, DC5, DO}, {DI1, DI2, DI3, DI4, DI5, DI6}};
    Ladder(a, b, qt).solve(dt, x);
    DC1 = x[0][0]; DC2 = x[0][1]; DC3 = x[0][2]; DC4 = x[0][3]; DC5 = x[0][4]; DO = x[0][5];
    DI1 = x[1][0]; DI2 = x[1][1]; DI3 = x[1][2]; DI4 = x[1][3]; DI5 = x[1][4]; DI6 = x[1][5];
ENDVERBATIM
}

PROCEDURE rates(v (mV)) { LOCAL e
    if (v != v_rates) {
        v_rates = v
        e = exp(v/24)
        a = 400*e*qt
        b = 12/e*qt
    }
}
