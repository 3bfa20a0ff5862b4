"""The channel equations once more, in numpy, as the literature writes them: what the NMODL is held against.

Voltages in mV, times in ms, conductances in S/cm2, concentrations in mM; functions take arrays of voltages.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FARADAY = 96485.33212  # C/mol
GAS_CONSTANT = 8.31446261815324  # J/(mol K)
CALCIUM_OUTSIDE = 2.0  # mM
E_IH = -45.0


def L(x, k):
    """x/(exp(x/k) - 1) without its gap at 0."""
    x = np.asarray(x, dtype=float)
    gap = np.abs(x / k) < 1e-6
    return np.where(gap, k * (1 - x / (2 * k)), x / np.expm1(np.where(gap, 1.0, x) / k))


def qt(celsius, reference):
    return 2.3 ** ((celsius - reference) / 10)


QT_FIXED = qt(34, 21)


@dataclass(frozen=True)
class Gate:
    """One gate: steady state and time constant (ms) as functions of voltage and temperature."""

    inf: Callable
    tau: Callable


def from_rates(alpha, beta, factor=lambda celsius: 1.0, scale=1.0):
    return Gate(
        lambda v, c: alpha(v) / (alpha(v) + beta(v)),
        lambda v, c: scale / ((alpha(v) + beta(v)) * factor(c)),
    )


def boltzmann(v, half, slope):
    return 1 / (1 + np.exp(-(v - half) / slope))


@dataclass(frozen=True)
class Channel:
    """Gates by state name, and the open share of gbar as a function of their values."""

    gates: dict[str, Gate]
    open_share: Callable
    ion: str | None


def _transient_sodium(m0, h0, factor):
    return Channel(
        {
            "m": from_rates(lambda v: 0.182 * L(-(v - m0), 6), lambda v: 0.124 * L(v - m0, 6), factor),
            "h": from_rates(lambda v: 0.015 * L(v - h0, 6), lambda v: 0.015 * L(-(v - h0), 6), factor),
        },
        lambda m, h: m**3 * h,
        "na",
    )


def _persistent_h(factor):
    rates = from_rates(lambda v: 2.88e-6 * L(v + 17, 4.63), lambda v: 6.94e-6 * L(-(v + 64.4), 2.63), factor)
    return Gate(lambda v, c: boltzmann(v, -48.8, -10), rates.tau)


def _persistent_m_tau(v, c):
    return 6 / ((0.182 * L(-(v + 38), 6) + 0.124 * L(v + 38, 6)) * QT_FIXED)


def _k_transient(shift, m_inf, factor):
    return Channel(
        {
            "m": Gate(m_inf, lambda v, c: (0.34 + 0.92 * np.exp(-(((v + shift + 71) / 59) ** 2))) / factor(c)),
            "h": Gate(
                lambda v, c: boltzmann(v + shift, -66, -10),
                lambda v, c: (8 + 49 * np.exp(-(((v + shift + 73) / 23) ** 2))) / factor(c),
            ),
        },
        lambda m, h: m**4 * h,
        "k",
    )


def _k_persistent(shift, m_inf, factor):
    def m_tau(v, c):
        u = v + shift
        return np.where(u < -50, 1.25 + 175.03 * np.exp(0.026 * u), 1.25 + 13 * np.exp(-0.026 * u)) / factor(c)

    def h_tau(v, c):
        u = v + shift
        return (360 + (1010 + 24 * (u + 55)) * np.exp(-(((u + 75) / 48) ** 2))) / factor(c)

    return Channel(
        {"m": Gate(m_inf, m_tau), "h": Gate(lambda v, c: boltzmann(v + shift, -54, -11), h_tau)},
        lambda m, h: m**2 * h,
        "k",
    )


def _kv2_tau1(v, c):
    return (360 + (1010 + 23.7 * (v + 54)) * np.exp(-(((v + 75) / 48) ** 2))) / qt(c, 21)


def _kv2_tau2(v, c):
    tau = (2350 + 1380 * np.exp(-0.011 * v) - 210 * np.exp(-0.03 * v)) / qt(c, 21)
    return np.where(tau < 0, 1e-3, tau)


def _fixed(c):
    return QT_FIXED


def _im_v2():
    def alpha(v):
        return 0.007 * np.exp(2.4 * (v + 48) / 26.12)

    def beta(v):
        return 0.007 * np.exp(-3.6 * (v + 48) / 26.12)

    return Gate(
        lambda v, c: alpha(v) / (alpha(v) + beta(v)),
        lambda v, c: (15 + 1 / (alpha(v) + beta(v))) / qt(c, 30),
    )


CHANNELS: dict[str, Channel] = {
    "Ih": Channel(
        {"m": from_rates(lambda v: 0.00643 * L(v + 154.9, 11.9), lambda v: 0.193 * np.exp(v / 33.1))},
        lambda m: m,
        None,
    ),
    "NaTa_t": _transient_sodium(-38, -66, _fixed),
    "NaTs2_t": _transient_sodium(-32, -60, _fixed),
    "NaTa": _transient_sodium(-48, -69, lambda c: qt(c, 23)),
    "NaTs": _transient_sodium(-40, -66, lambda c: qt(c, 23)),
    "Nap_Et2": Channel(
        {"m": Gate(lambda v, c: boltzmann(v, -52.6, 4.6), _persistent_m_tau), "h": _persistent_h(_fixed)},
        lambda m, h: m**3 * h,
        "na",
    ),
    "K_Tst": _k_transient(10, lambda v, c: boltzmann(v, -10, 19), _fixed),
    "K_T": _k_transient(0, lambda v, c: boltzmann(v, -47, 29), lambda c: qt(c, 21)),
    "K_Pst": _k_persistent(10, lambda v, c: boltzmann(v, -11, 12), _fixed),
    "K_P": _k_persistent(0, lambda v, c: boltzmann(v, -14.3, 14.6), lambda c: qt(c, 21)),
    "Kv3_1": Channel(
        {
            "m": Gate(
                lambda v, c: boltzmann(v, 18.7, 9.7), lambda v, c: 4 / (1 + np.exp(-(v + 46.56) / 44.14))
            )
        },
        lambda m: m,
        "k",
    ),
    "Kd": Channel(
        {
            "m": Gate(lambda v, c: 1 - 1 / (1 + np.exp((v + 43) / 8)), lambda v, c: 1.0 + 0 * v),
            "h": Gate(lambda v, c: boltzmann(v, -67, -7.3), lambda v, c: 1500.0 + 0 * v),
        },
        lambda m, h: m * h,
        "k",
    ),
    "Kv2like": Channel(
        {
            "m": from_rates(
                lambda v: 0.12 * L(-(v - 43), 11),
                lambda v: 0.02 * np.exp(-(v + 1.27) / 120),
                lambda c: qt(c, 21),
                scale=2.5,
            ),
            "h1": Gate(lambda v, c: boltzmann(v, -58, -11), _kv2_tau1),
            "h2": Gate(lambda v, c: boltzmann(v, -58, -11), _kv2_tau2),
        },
        lambda m, h1, h2: m**2 * (h1 + h2) / 2,
        "k",
    ),
    "Im": Channel(
        {
            "m": from_rates(
                lambda v: 0.0033 * np.exp(0.1 * (v + 35)),
                lambda v: 0.0033 * np.exp(-0.1 * (v + 35)),
                lambda c: qt(c, 21),
            )
        },
        lambda m: m,
        "k",
    ),
    "Im_v2": Channel({"m": _im_v2()}, lambda m: m, "k"),
    "Ca_HVA": Channel(
        {
            "m": from_rates(
                lambda v: 0.055 * L(-(v + 27), 3.8), lambda v: 0.94 * np.exp(-(v + 75) / 17)
            ),
            "h": from_rates(
                lambda v: 0.000457 * np.exp(-(v + 13) / 50), lambda v: 0.0065 * boltzmann(v, -15, 28)
            ),
        },
        lambda m, h: m**2 * h,
        "ca",
    ),
    "Ca_LVA": Channel(
        {
            "m": Gate(
                lambda v, c: boltzmann(v, -40, 6), lambda v, c: (5 + 20 * boltzmann(v, -35, -5)) / qt(c, 21)
            ),
            "h": Gate(
                lambda v, c: boltzmann(v, -90, -6.4),
                lambda v, c: (20 + 50 * boltzmann(v, -50, -7)) / qt(c, 21),
            ),
        },
        lambda m, h: m**2 * h,
        "ca",
    ),
}  # fmt: skip


def nap_open_share(v, h):
    """Nap's activation is instantaneous."""
    return boltzmann(v, -52.6, 4.6) * h


NAP_H = _persistent_h(lambda c: qt(c, 21))


def sk_z_inf(cai):
    cai = np.where(cai < 1e-7, cai + 1e-7, cai)
    return 1 / (1 + (0.00043 / cai) ** 4.8)


NAV_STATES = ("C1", "C2", "C3", "C4", "C5", "O", "I1", "I2", "I3", "I4", "I5", "I6")


def nav_rate_matrix(v, celsius):
    """Q with d p/dt = Q p for the twelve states in the order of `NAV_STATES` (1/ms)."""
    q = np.zeros((12, 12))
    upper, lower = range(0, 6), range(6, 12)

    def exchange(source, target, forward, back):
        for a, b, rate in ((source, target, forward), (target, source, back)):
            q[b, a] += rate
            q[a, a] -= rate

    for k in range(1, 5):
        forward, back = (5 - k) * 400 * np.exp(v / 24), k * 12 * np.exp(-v / 24)
        exchange(upper[k - 1], upper[k], forward, back)
        exchange(lower[k - 1], lower[k], forward * 2.51, back / 5.32)
    exchange(upper[4], upper[5], 250, 60)
    exchange(lower[4], lower[5], 250, 60)
    for k in range(5):
        exchange(upper[k], lower[k], 0.01 * 2.51**k, 40 / 5.32**k)
    exchange(upper[5], lower[5], 8, 0.05)
    return q * qt(celsius, 37)


def nav_steady_state(v, celsius):
    """The distribution that the chain comes to rest in."""
    system = np.vstack([nav_rate_matrix(v, celsius), np.ones(12)])
    return np.linalg.lstsq(system, np.append(np.zeros(12), 1.0), rcond=None)[0]


def propagated(matrix, start, time):
    """exp(matrix * time) @ start, by its series over a short time, squared up to the whole."""
    halvings = max(0, int(np.ceil(np.log2(np.abs(matrix).max() * time + 1e-300))) + 4)
    small = matrix * (time / 2.0**halvings)
    power = total = np.eye(len(matrix))
    for order in range(1, 14):
        power = power @ small / order
        total = total + power
    for _ in range(halvings):
        total = total @ total
    return total @ start


def nernst_calcium(cai, celsius):
    """Reversal potential (mV)."""
    return 1e3 * GAS_CONSTANT * (celsius + 273.15) / (2 * FARADAY) * np.log(CALCIUM_OUTSIDE / cai)


def calcium_slope(cai, ica, gamma, decay, depth, min_cai):
    """d cai/dt (mM/ms) for a calcium current `ica` in mA/cm2."""
    return -1e4 * gamma * ica / (2 * FARADAY * depth) - (cai - min_cai) / decay
