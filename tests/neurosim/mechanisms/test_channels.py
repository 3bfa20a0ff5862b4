"""Every mechanism against its equations in numpy; the compile cache under many processes at once."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from neurofleet.errors import InputError
from neurofleet.neurosim.mechanisms import MECHANISMS, compile_mechanisms, load_mechanisms, read_mechanism
from tests.neurosim.mechanisms import channel_equations as equations

GBAR = 1e-3  # S/cm2
LEVELS_MV = (-140.0, -100.0, -75.0, -61.3, -50.2, -44.0, -31.7, -15.0, 5.0, 40.0)
REVERSAL_MV = {"na": 53.0, "k": -107.0, "ca": 120.0, None: equations.E_IH}
SINGULAR_MV = (-154.9, -69.0, -66.0, -64.4, -60.0, -48.0, -40.0, -38.0, -32.0, -27.0, -17.0, 43.0)


@pytest.fixture(scope="module")
def h():
    load_mechanisms()
    import neuron

    neuron.h.load_file("stdrun.hoc")
    return neuron.h


@pytest.fixture(params=["fixed step", "variable step"])
def solver(request, h):
    """Exact exponential steps at a constant voltage, or CVODE at a tight tolerance."""
    cvode = h.CVode()
    tolerance = cvode.atol()
    h.cvode_active(request.param == "variable step")
    cvode.atol(1e-10)
    yield request.param
    h.cvode_active(False)
    cvode.atol(tolerance)


class Patch:
    """One compartment with one mechanism under voltage clamp."""

    def __init__(self, h, *mechanisms: str):
        self.h = h
        self.section = h.Section(name="patch")
        self.section.L = self.section.diam = 5.0
        for name in mechanisms:
            self.section.insert(name)
        self.segment = self.section(0.5)
        self.clamp = h.SEClamp(self.segment)
        self.clamp.rs = 1e-6
        self.clamp.dur1 = 1e9

    def step(self, before_mV: float, to_mV: float, names, *, celsius: float = 34.0, until_ms: float = 20.0):
        """Hold, step at time 0, and return times (ms) and the recorded variables (T, len(names))."""
        self.h.celsius = celsius
        self.clamp.amp1 = to_mV
        record = [self.h.Vector().record(getattr(self.segment, f"_ref_{name}")) for name in names]
        time = self.h.Vector().record(self.h._ref_t)
        self.h.dt = 0.05
        self.h.finitialize(before_mV)
        self.h.continuerun(until_ms)
        return np.array(time), np.array(record).T


def same_current(time, found, expected, solver, **tolerance):
    """Hold a recorded current against the expected one, once the clamp holds.

    A fixed step reports the current of the step before; the variable step first follows the clamp charging
    the membrane.
    """
    if solver == "fixed step":
        time, found, expected = time[:-1], found[1:], expected[:-1]
    holds = time > 0.01
    np.testing.assert_allclose(found[holds], expected[holds], **tolerance)


def test_every_own_mechanism_is_checked_here():
    checked = {*equations.CHANNELS, "Nap", "SK", "CaDynamics", "NaV"}
    assert checked == MECHANISMS.keys() - {"pas", "hh"}


@pytest.mark.parametrize("celsius", [34.0, 25.0])
@pytest.mark.parametrize("name", equations.CHANNELS)
def test_channel_under_clamp_follows_its_equations(h, solver, name, celsius):
    channel = equations.CHANNELS[name]
    patch = Patch(h, name)
    setattr(patch.segment, f"gbar_{name}", GBAR)
    if channel.ion:
        setattr(patch.section, f"e{channel.ion}", REVERSAL_MV[channel.ion])
    current = f"i{channel.ion}_{name}" if channel.ion else f"ihcn_{name}"
    states = [f"{state}_{name}" for state in channel.gates]
    for before in (-90.0, -20.0):
        for level in LEVELS_MV:
            time, found = patch.step(before, level, [current, *states], celsius=celsius)
            gates = {}
            for column, (state, gate) in enumerate(channel.gates.items(), start=1):
                start, end = gate.inf(before, celsius), gate.inf(level, celsius)
                gates[state] = end + (start - end) * np.exp(-time / gate.tau(level, celsius))
                np.testing.assert_allclose(found[:, column], gates[state], atol=2e-6, rtol=0)
            expected = GBAR * channel.open_share(**gates) * (level - REVERSAL_MV[channel.ion])
            scale = GBAR * abs(level - REVERSAL_MV[channel.ion])
            same_current(time, found[:, 0], expected, solver, atol=1e-5 * scale, rtol=1e-5)


@pytest.mark.parametrize("name", equations.CHANNELS)
def test_initial_state_is_the_steady_state_even_where_a_rate_is_0_by_0(h, name):
    section = h.Section(name="rest")
    section.insert(name)
    for voltage in (*SINGULAR_MV, *(v + 1e-6 for v in SINGULAR_MV), *(v - 1e-4 for v in SINGULAR_MV)):
        h.finitialize(voltage)
        for state, gate in equations.CHANNELS[name].gates.items():
            found = getattr(section(0.5), f"{state}_{name}")
            assert found == pytest.approx(float(gate.inf(voltage, h.celsius)), rel=1e-8, abs=1e-15)


def test_nap_activates_at_once(h, solver):
    patch = Patch(h, "Nap")
    patch.segment.gbar_Nap = GBAR
    patch.section.ena = REVERSAL_MV["na"]
    for level in LEVELS_MV:
        time, found = patch.step(-90.0, level, ["ina_Nap", "h_Nap"])
        start, end = equations.NAP_H.inf(-90.0, 34.0), equations.NAP_H.inf(level, 34.0)
        h_gate = end + (start - end) * np.exp(-time / equations.NAP_H.tau(level, 34.0))
        np.testing.assert_allclose(found[:, 1], h_gate, atol=1e-6)
        expected = GBAR * equations.nap_open_share(level, h_gate) * (level - REVERSAL_MV["na"])
        same_current(time, found[:, 0], expected, solver, atol=1e-9, rtol=1e-5)


@pytest.mark.parametrize("celsius", [34.0, 25.0])
def test_nav_starts_in_the_true_steady_state(h, celsius):
    section = h.Section(name="rest")
    section.insert("NaV")
    h.celsius = celsius
    for voltage in (-120.0, -80.0, -50.0, -20.0, 20.0):
        h.finitialize(voltage)
        found = [getattr(section(0.5), f"{state}_NaV") for state in equations.NAV_STATES]
        np.testing.assert_allclose(found, equations.nav_steady_state(voltage, celsius), atol=1e-13, rtol=1e-10)


def test_nav_under_clamp_follows_its_rate_matrix(h, solver):
    patch = Patch(h, "NaV")
    patch.segment.gbar_NaV = GBAR
    patch.section.ena = REVERSAL_MV["na"]
    for level in (-100.0, -50.0, -20.0, 20.0):
        names = ["ina_NaV", *(f"{s}_NaV" for s in equations.NAV_STATES)]
        time, found = patch.step(-80.0, level, names, until_ms=5.0)
        start = equations.nav_steady_state(-80.0, 34.0)
        matrix = equations.nav_rate_matrix(level, 34.0)
        if solver == "fixed step":  # backward Euler, as METHOD sparse is
            advance = np.linalg.inv(np.eye(12) - 0.05 * matrix)
            expected = [start]
            for _ in time[1:]:
                expected.append(advance @ expected[-1])
        else:
            time, found = time[::10], found[::10]
            expected = [equations.propagated(matrix, start, t) for t in time]
        # The clamp takes about 1e-9 ms, in which a state may change by 4e-6.
        np.testing.assert_allclose(found[:, 1:], expected, atol=1e-5)
        np.testing.assert_allclose(found[:, 1:].sum(axis=1), 1.0, atol=1e-8)
        current = GBAR * np.array(expected)[:, 5] * (level - REVERSAL_MV["na"])
        same_current(time, found[:, 0], current, solver, atol=1e-3 * GBAR)


def test_nav_gives_the_variable_step_solver_its_linear_system(h):
    """Without it the solver would creep along at the pace of the fastest rate, some 10 per us at 60 mV."""
    patch = Patch(h, "NaV")
    h.cvode_active(True)
    time, _ = patch.step(-80.0, 60.0, [], until_ms=200.0)
    h.cvode_active(False)
    assert time[-1] == 200.0
    assert len(time) < 300


def test_sk_follows_calcium(h):
    section = h.Section(name="rest")
    section.insert("SK")
    for cai in (-1e-6, 0.0, 5e-8, 1e-4, 4.3e-4, 1e-3, 1e-2):
        section.cai = cai
        h.finitialize(-60)
        expected = float(equations.sk_z_inf(cai)) if cai > -1e-7 else 0.0
        assert section(0.5).z_SK == pytest.approx(expected, rel=1e-9)


def test_sk_relaxes_with_one_millisecond(h, solver):
    patch = Patch(h, "SK")
    patch.segment.gbar_SK = GBAR
    patch.section.ek = REVERSAL_MV["k"]
    patch.section.cai = 1e-3
    patch.step(-60.0, -60.0, [], until_ms=0.0)
    patch.section.cai = 2e-4
    h.CVode().re_init()
    h.continuerun(1.0)
    start, end = equations.sk_z_inf(1e-3), equations.sk_z_inf(2e-4)
    assert patch.segment.z_SK == pytest.approx(float(end + (start - end) * np.exp(-h.t)), abs=1e-6)
    h.fcurrent()
    expected = GBAR * patch.segment.z_SK * (-60.0 - REVERSAL_MV["k"])
    assert patch.segment.ik_SK == pytest.approx(expected, rel=1e-6)


def test_calcium_pool_and_its_reversal_potential_follow_the_current(h):
    patch = Patch(h, "Ca_HVA", "CaDynamics")
    segment, level = patch.segment, -10.0
    segment.gbar_Ca_HVA, segment.gamma_CaDynamics, segment.decay_CaDynamics = 2e-4, 0.02, 50.0
    h.cvode_active(True)
    h.CVode().atol(1e-7)
    time, found = patch.step(-80.0, level, ["cai", "eca"], until_ms=40.0)
    h.CVode().atol(1e-3)
    h.cvode_active(False)
    channel = equations.CHANNELS["Ca_HVA"]

    def current(t, cai):
        gates = {}
        for state, gate in channel.gates.items():
            start, end = gate.inf(-80.0, 34.0), gate.inf(level, 34.0)
            gates[state] = end + (start - end) * np.exp(-t / gate.tau(level, 34.0))
        return 2e-4 * channel.open_share(**gates) * (level - equations.nernst_calcium(cai, 34.0))

    def slope(t, cai):
        return equations.calcium_slope(cai, current(t, cai), 0.02, 50.0, 0.1, 1e-4)

    grid = np.linspace(0, 40, 4001)
    cai = np.full(grid.size, 1e-4)
    for i, t in enumerate(grid[:-1]):
        d = grid[1] - grid[0]
        k1 = slope(t, cai[i])
        k2 = slope(t + d / 2, cai[i] + d / 2 * k1)
        k3 = slope(t + d / 2, cai[i] + d / 2 * k2)
        k4 = slope(t + d, cai[i] + d * k3)
        cai[i + 1] = cai[i] + d / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    expected = np.interp(time, grid, cai)
    assert expected[-1] > 5e-4
    np.testing.assert_allclose(found[:, 0], expected, rtol=5e-5)
    np.testing.assert_allclose(found[1:, 1], equations.nernst_calcium(expected[1:], 34.0), atol=0.01)


def test_defaults_are_known_without_neuron():
    assert MECHANISMS["NaTa_t"].parameters == {"gbar": 1e-5}
    assert MECHANISMS["NaV"].parameters == {"gbar": 0.015}
    assert MECHANISMS["SK"].parameters == {"gbar": 1e-6}
    assert MECHANISMS["CaDynamics"].parameters == {"gamma": 0.05, "decay": 80, "depth": 0.1, "minCai": 1e-4}
    assert MECHANISMS["SK"].ions == ("k", "ca")
    assert MECHANISMS["SK"].reversal_ions == ("k",)


# ---------------------------------------------------------------------------------------------- compiling

LEAK = """
NEURON {{ SUFFIX {name} NONSPECIFIC_CURRENT i RANGE g, e : the reversal = constant
}}
PARAMETER {{ g = 0.001 (S/cm2) e = -65 (mV) }}
ASSIGNED {{ v (mV) i (mA/cm2) }}
BREAKPOINT {{ i = g*(v - e) }}
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("NEUROFLEET_CACHE", str(folder))
    return folder


def _leak(folder: Path, name: str = "TestLeak") -> Path:
    path = folder / f"{name.lower()}.mod"
    path.write_text(LEAK.format(name=name))
    return path


def test_reads_the_parameters_of_a_users_file(tmp_path):
    mechanism = read_mechanism(_leak(tmp_path))
    assert (mechanism.name, mechanism.parameters) == ("TestLeak", {"g": 0.001, "e": -65.0})


def test_many_processes_at_once_compile_once_and_all_can_load(cache, tmp_path):
    source = _leak(tmp_path)
    program = textwrap.dedent(f"""
        from pathlib import Path
        from neurofleet.neurosim.mechanisms import compile_mechanisms
        folder = compile_mechanisms([Path({str(source)!r})])
        import neuron
        neuron.h.nrn_load_dll(str(next(folder.glob("*/libnrnmech.*"))))
        section = neuron.h.Section()
        section.insert("TestLeak")
        print(folder, section(0.5).e_TestLeak)
    """)
    environment = os.environ | {"PATH": "/usr/local/bin:/usr/bin:/bin", "NEURON_MODULE_OPTIONS": "-nogui"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    said = {process.communicate(timeout=120)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0, 0]
    (line,) = said
    folder = Path(line.split()[0])
    assert line.split()[1] == "-65.0"
    kept = sorted(p.name for p in folder.parent.iterdir())
    assert kept == sorted([folder.name, f"{folder.name}.lock"])
    library = next(folder.glob("*/libnrnmech.*"))
    written = library.stat().st_mtime_ns
    assert compile_mechanisms([source]) == folder
    assert library.stat().st_mtime_ns == written
    assert compile_mechanisms([_leak(tmp_path, "OtherLeak")]) != folder, "another source is another entry"


def test_a_missing_compiler_is_named_with_its_remedy(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    wanted = r"no C\+\+ compiler \(g\+\+ or .*\) and no make here.*apt-get install g\+\+ make"
    with pytest.raises(InputError, match=wanted):
        compile_mechanisms([_leak(tmp_path)])


def test_a_compiler_named_by_the_user_has_to_be_there(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(InputError, match=r"no C\+\+ compiler \(no-such-compiler\) here"):
        compile_mechanisms([_leak(tmp_path)])


def test_a_file_that_does_not_compile_is_named_with_the_compilers_words(cache, tmp_path):
    broken = tmp_path / "broken.mod"
    broken.write_text("NEURON { SUFFIX Broken RANGE g }\nPARAMETER { g = 1 }\nBREAKPOINT { i = (((g }\n")
    with pytest.raises(InputError, match=r"mechanism Broken \(broken.mod\) did not compile(?s:.*)at line 3"):
        compile_mechanisms([broken])
    assert not list(cache.glob("mechanisms/.compiling*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("NEUROFLEET_CACHE", str(blocked))
    with pytest.raises(InputError, match="NEUROFLEET_CACHE"):
        compile_mechanisms([_leak(tmp_path)])


def test_what_is_no_mechanism_is_refused(tmp_path):
    (tmp_path / "odd.mod").write_text("NEURON { POINT_PROCESS X }")
    with pytest.raises(InputError, match="SUFFIX"):
        read_mechanism(tmp_path / "odd.mod")
    with pytest.raises(InputError, match="cannot be read"):
        compile_mechanisms([tmp_path / "gone.mod"])


def test_a_users_file_loads_beside_ours_and_may_not_take_our_names(h, cache, tmp_path):
    load_mechanisms([_leak(tmp_path, "UsersLeak")])
    section = h.Section(name="users")
    section.insert("UsersLeak")
    section.insert("Ih")
    assert section(0.5).g_UsersLeak == pytest.approx(0.001)
    with pytest.raises(InputError, match="already holds mechanisms called Ih"):
        load_mechanisms([_leak(tmp_path, "Ih")])


def test_what_is_compiled_in_the_current_folder_is_not_in_the_way(cache, tmp_path):
    source = _leak(tmp_path)
    (compiled,) = [path for path in compile_mechanisms([source]).iterdir() if path.name != "mod"]
    (tmp_path / compiled.name).symlink_to(compiled)
    program = textwrap.dedent(f"""
        from pathlib import Path
        from neurofleet.neurosim.mechanisms import nmodl_compilation
        nmodl_compilation.PROJECT_SOURCES = ()
        nmodl_compilation.load_mechanisms([Path({str(source)!r})])
        import neuron
        neuron.h.Section().insert("TestLeak")
    """)
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
