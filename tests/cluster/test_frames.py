"""Messages between processes: whole, in order, and never waited for."""

import os

import pytest

from neurofleet.fresh_process import BrokenFrame, FrameReader, frame, write_frame


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    yield read_end, write_end
    for end in (read_end, write_end):
        try:
            os.close(end)
        except OSError:
            continue


def test_messages_arrive_whole_and_in_order(pipe):
    read_end, write_end = pipe
    for content in (b"", b"first", b"x" * 10_000):
        write_frame(write_end, content)
    assert list(FrameReader(read_end, 10**6).receive()) == [b"", b"first", b"x" * 10_000]


def test_a_half_written_message_is_not_waited_for(pipe):
    read_end, write_end = pipe
    reader = FrameReader(read_end, 10**6)
    message = frame(b"content")
    os.write(write_end, message[:3])
    assert list(reader.receive()) == []
    os.write(write_end, message[3:10])
    assert list(reader.receive()) == []
    os.write(write_end, message[10:])
    assert list(reader.receive()) == [b"content"]
    os.close(write_end)
    assert list(reader.receive()) == []
    assert reader.ended


def test_an_impossible_length_is_broken(pipe):
    read_end, write_end = pipe
    os.write(write_end, b"\xff" * 16)
    with pytest.raises(BrokenFrame):
        list(FrameReader(read_end, 10**6).receive())
