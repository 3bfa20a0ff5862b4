"""Small files in the formats of acquisition programs, written byte by byte."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BLOCK = 512


@dataclass(frozen=True)
class Output:
    """An output of pCLAMP with its table of epochs: kind (1 step, 2 ramp), level, its increment, samples."""

    name: str = "Cmd 0"
    unit: str = "pA"
    holding: float = 0.0
    epochs: Sequence[tuple[int, float, float, int]] = ()
    source: int = 1
    leak_subtraction: int = 0


def write_abf2(
    path: Path,
    sweeps: np.ndarray,
    channels: Sequence[tuple[str, str]],
    outputs: Sequence[Output] = (),
    *,
    interval_us: float = 100.0,
    mode: int = 5,
    protocol: str = r"C:\protocols\IV steps.pro",
    user_list: bool = False,
    alternating: bool = False,
) -> Path:
    """Write sweeps, (n sweeps, n channels, n samples) in the channels' units (names and units), as ABF 2."""
    texts = ["", "writer", protocol]

    def index(text: str) -> int:
        texts.append(text)
        return len(texts) - 1

    header = bytearray(BLOCK)
    struct.pack_into("<4s4BIIIII", header, 0, b"ABF2", 0, 0, 0, 2, BLOCK, len(sweeps), 20200101, 0, 0)
    struct.pack_into("<HHHH", header, 28, 1, 0, 0, 0)
    struct.pack_into("<I", header, 60, 1)
    struct.pack_into("<I", header, 72, 2)

    protocol_section = bytearray(BLOCK)
    struct.pack_into("<hf", protocol_section, 0, mode, interval_us)
    struct.pack_into("<i", protocol_section, 22, sweeps.shape[1] * sweeps.shape[2])
    struct.pack_into("<ff", protocol_section, 110, 10.0, 10.0)
    struct.pack_into("<ii", protocol_section, 118, 32768, 32768)
    struct.pack_into("<h", protocol_section, 182, int(alternating))

    peaks = [max(1e-9, float(np.abs(sweeps[:, channel]).max())) for channel in range(len(channels))]
    inputs = bytearray()
    for number, ((name, unit), peak) in enumerate(zip(channels, peaks, strict=True)):
        entry = bytearray(128)
        struct.pack_into("<h", entry, 0, number)
        struct.pack_into("<f", entry, 6, 1.0)
        struct.pack_into("<hh", entry, 24, number, number)
        struct.pack_into("<f", entry, 28, 1.0)
        struct.pack_into("<fff", entry, 40, 10.0 / peak, 0.0, 1.0)  # volts per unit
        struct.pack_into("<ii", entry, 74, index(name), index(unit))
        inputs += entry

    dacs, epochs = bytearray(), bytearray()
    for number, output in enumerate(outputs):
        entry = bytearray(256)
        struct.pack_into("<h", entry, 0, number)
        struct.pack_into("<ff", entry, 8, 1.0, output.holding)
        struct.pack_into("<ii", entry, 24, index(output.name), index(output.unit))
        struct.pack_into("<hhh", entry, 40, 1, output.source, 0)
        struct.pack_into("<h", entry, 92, output.leak_subtraction)
        dacs += entry
        for position, (kind, level, increment, samples) in enumerate(output.epochs):
            one = bytearray(48)
            struct.pack_into("<hhhffii", one, 0, position, number, kind, level, increment, samples, 0)
            epochs += one
    digital = b"".join(struct.pack("<hh", number, 0).ljust(32, b"\0") for number in range(10))
    lists = struct.pack("<hhhhh", 0, 0, 12, 0, 0).ljust(64, b"\0") if user_list else b""
    strings = b"SSCH" + bytes(40) + b"\0" + b"\0".join(text.encode() for text in texts) + b"\0"

    volts = np.stack([sweeps[:, channel] / peaks[channel] * 10.0 for channel in range(len(channels))], axis=-1)
    data = np.clip(np.round(volts * 3276.8), -32768, 32767).astype("<i2").tobytes()

    sections = {
        76: (protocol_section, BLOCK, 1),
        92: (inputs, 128, len(channels)),
        108: (dacs, 256, len(outputs)),
        124: (digital, 32, 10),
        156: (epochs, 48, len(epochs) // 48),
        172: (lists, 64, len(lists) // 64),
        220: (strings, len(strings), 1),
        236: (data, 2, len(data) // 2),
    }
    body, block = bytearray(), 1
    for place, (content, item_bytes, items) in sections.items():
        struct.pack_into("<IIq", header, place, block, item_bytes, items)
        padded = bytes(content).ljust((len(content) + BLOCK - 1) // BLOCK * BLOCK, b"\0")
        body += padded
        block += len(padded) // BLOCK
    path.write_bytes(bytes(header) + bytes(body))
    return path


def write_abf1(
    path: Path,
    sweeps: np.ndarray,
    channels: Sequence[tuple[str, str]],
    outputs: Sequence[Output] = (),
    *,
    interval_us: float = 100.0,
    mode: int = 5,
    second_interval_us: float = 0.0,
) -> Path:
    """Write sweeps, (n sweeps, n channels, n samples) in the channels' units, as ABF 1.8."""
    header = bytearray(12 * BLOCK)
    struct.pack_into("<4sfhi", header, 0, b"ABF ", 1.8, mode, sweeps.size)
    struct.pack_into("<i", header, 16, len(sweeps))
    struct.pack_into("<f", header, 32, 1.83)
    struct.pack_into("<i", header, 40, len(header) // BLOCK)
    struct.pack_into("<hff", header, 120, len(channels), interval_us / len(channels), second_interval_us)
    struct.pack_into("<i", header, 138, sweeps.shape[1] * sweeps.shape[2])
    struct.pack_into("<ffii", header, 244, 10.0, 10.0, 32768, 32768)
    struct.pack_into("<16h", header, 410, *(list(range(len(channels))) + [-1] * (16 - len(channels))))
    struct.pack_into("<16f", header, 730, *[1.0] * 16)
    struct.pack_into("<16f", header, 1050, *[1.0] * 16)
    peaks = [max(1e-9, float(np.abs(sweeps[:, channel]).max())) for channel in range(len(channels))]
    for number, ((name, unit), peak) in enumerate(zip(channels, peaks, strict=True)):
        struct.pack_into("<10s", header, 442 + 10 * number, name.encode().ljust(10))
        struct.pack_into("<8s", header, 602 + 8 * number, unit.encode().ljust(8))
        struct.pack_into("<f", header, 922 + 4 * number, 10.0 / peak)
    for number, output in enumerate(outputs):
        struct.pack_into("<10s", header, 1306 + 10 * number, output.name.encode().ljust(10))
        struct.pack_into("<8s", header, 1346 + 8 * number, output.unit.encode().ljust(8))
        struct.pack_into("<f", header, 1394 + 4 * number, output.holding)
        struct.pack_into("<h", header, 2296 + 2 * number, 1)
        struct.pack_into("<h", header, 2300 + 2 * number, output.source)
        for position, (kind, level, increment, samples) in enumerate(output.epochs, start=10 * number):
            struct.pack_into("<h", header, 2308 + 2 * position, kind)
            struct.pack_into("<f", header, 2348 + 4 * position, level)
            struct.pack_into("<f", header, 2428 + 4 * position, increment)
            struct.pack_into("<i", header, 2508 + 4 * position, samples)
    struct.pack_into("<256s", header, 4898, rb"C:\protocols\IV steps.pro")
    volts = np.stack([sweeps[:, channel] / peaks[channel] * 10.0 for channel in range(len(channels))], axis=-1)
    path.write_bytes(bytes(header) + np.clip(np.round(volts * 3276.8), -32768, 32767).astype("<i2").tobytes())
    return path


def write_ibw(path: Path, values: np.ndarray, unit: str, dt: float, time_unit: str = "s") -> Path:
    """Write an Igor binary wave of version 5: values (n samples,) or (n samples, n sweeps)."""
    values = np.asarray(values, dtype="<f4")
    shape = (*values.shape, 0, 0, 0)[:4]
    wave = bytearray(320)
    struct.pack_into("<i", wave, 12, values.size)
    struct.pack_into("<h", wave, 16, 2)  # 32-bit floats
    struct.pack_into("<32s", wave, 28, path.stem.encode()[:31])
    struct.pack_into("<4i", wave, 68, *shape)
    struct.pack_into("<4d", wave, 84, dt, 1.0, 1.0, 1.0)
    struct.pack_into("<4s", wave, 148, unit.encode())
    struct.pack_into("<4s", wave, 152, time_unit.encode())
    binary = bytearray(64)
    struct.pack_into("<hhi", binary, 0, 5, 0, 320 + values.nbytes)
    total = sum(struct.unpack("<192h", bytes(binary) + bytes(wave)))  # the header's words sum to 0
    struct.pack_into("<h", binary, 2, ((-total + 0x8000) & 0xFFFF) - 0x8000)
    path.write_bytes(bytes(binary) + bytes(wave) + values.tobytes(order="F"))
    return path


def write_wcp(
    path: Path,
    records: Sequence[np.ndarray],
    channels: Sequence[tuple[str, str]],
    *,
    interval_s: float = 1e-4,
    ranges_V: Sequence[float] | None = None,
    verdicts: Sequence[str] = (),
    places: Sequence[int] | None = None,
    marker: str = "",
) -> Path:
    """Write records, (n channels, n samples) each in the channels' units; `ranges_V` is each record's."""
    samples = records[0].shape[1]
    data_sectors = (2 * len(channels) * samples + BLOCK - 1) // BLOCK
    places = list(range(len(channels))) if places is None else list(places)
    lines = ["VER=9", "RTIME=01/01/2020 12:00:00", f"NC={len(channels)}", f"NR={len(records)}", "NBH=2", "NBA=2"]
    lines += [f"NBD={data_sectors}", "AD=10,0", "ADCMAX=32767", f"NP={samples}", f"DT={interval_s}".replace(".", ",")]
    gains = [0.01 if unit == "mV" else 0.005 for _, unit in channels]  # volts per unit
    for number, (name, unit) in enumerate(channels):
        lines += [
            f"YN{number}={name}",
            f"YU{number}={unit}",
            f"YG{number}={gains[number]}",
            f"YO{number}={places[number]}",
        ]
    content = bytearray("\r\n".join(lines).encode().ljust(1024))
    for number, record in enumerate(records):
        range_V = 10.0 if ranges_V is None else ranges_V[number]
        analysis = bytearray(1024)
        verdict = verdicts[number] if verdicts else "ACCEPTED"
        struct.pack_into("<8s4sfff", analysis, 0, verdict.encode(), b"TEST", 0.0, 2.0 * number, interval_s)
        struct.pack_into(f"<{len(channels)}f", analysis, 24, *[range_V] * len(channels))
        struct.pack_into("<16s", analysis, 24 + 4 * len(channels), marker.encode())
        stored = np.zeros((samples, len(channels)))
        for channel, place in enumerate(places):
            stored[:, place] = record[channel] * gains[channel] / range_V * 32767
        content += analysis + np.round(stored).astype("<i2").tobytes().ljust(data_sectors * BLOCK, b"\0")
    path.write_bytes(bytes(content))
    return path


def write_axograph(path: Path, columns: Sequence[tuple[str, np.ndarray]], interval_s: float = 1e-4) -> Path:
    """Write an AxoGraph X file: titles with units, such as ``Vm (mV)``, and values of each column."""
    content = bytearray(b"axgx" + struct.pack(">ll", 6, len(columns) + 1))

    def add(kind: int, title: str, samples: int) -> None:
        text = title.encode("utf-16-be")
        content.extend(struct.pack(">lll", samples, kind, len(text)) + text)

    add(9, "Time (s)", len(columns[0][1]))
    content += struct.pack(">dd", 0.0, interval_s)
    for title, values in columns:
        add(6, title, len(values))
        content += np.asarray(values, dtype=">f4").tobytes()
    path.write_bytes(bytes(content))
    return path


def write_smr(path: Path, channels: Sequence[tuple[str, str, np.ndarray]], interval_us: int = 100) -> Path:
    """Write a Spike2 file of version 6 with one block of 16-bit samples for each channel."""
    header = bytearray(BLOCK)
    struct.pack_into(
        "<h10s8shhhihhhhhid", header, 0, 6, b"(C) CED 87", b"writer", 1, 1, 0, 0, len(channels), 140, 0, 0, 0, 0, 1e-6
    )
    infos, blocks = bytearray(), bytearray()
    first = BLOCK + (140 * len(channels) + BLOCK - 1) // BLOCK * BLOCK
    for number, (title, unit, values) in enumerate(channels):
        scale = max(1e-9, float(np.abs(values).max())) / 4.0
        stored = np.round(np.asarray(values) / scale * 6553.6).astype("<i2")
        info = bytearray(140)
        struct.pack_into(
            "<hiiihhhhhh", info, 0, 0, 0, first + len(blocks), first + len(blocks), 1, 0, 0, 0, 0, stored.size
        )
        struct.pack_into("<iihp", info, 98, 0, interval_us, number, b"")
        info[108:118] = bytes([len(title)]) + title.encode().ljust(9)
        struct.pack_into("<fBb", info, 118, 1e6 / interval_us, 1, 0)
        struct.pack_into("<ff", info, 124, scale, 0.0)
        info[132:138] = bytes([len(unit)]) + unit.encode().ljust(5)
        infos += info
        end = (stored.size - 1) * interval_us
        blocks += struct.pack("<iiiihh", -1, -1, 0, end, number, stored.size) + stored.tobytes()
    path.write_bytes(bytes(header) + bytes(infos).ljust(first - BLOCK, b"\0") + bytes(blocks))
    return path
