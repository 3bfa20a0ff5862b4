# shellcheck shell=sh
# Starts the driver of a job on a cluster: sh start.sh PYTHON ARGUMENTS…, with PYTHON empty to find it.
# A plain `python` may be the system's. Our parent is Ray's supervisor of the job, whose own parent, the raylet,
# was told on its command line which Python to start workers with.
python=$1
shift
if [ -z "$python" ]; then
    raylet=$(sed -n 's/^PPid:[^0-9]*//p' "/proc/$PPID/status" 2>/dev/null)
    python=$(tr '\0' '\n' 2>/dev/null <"/proc/$raylet/cmdline" | sed -n 's/^--python_worker_command=\([^ ]*\) .*/\1/p')
fi
if ! command -v "$python" >/dev/null; then
    echo "neurofleet: the Python of this cluster's Ray was not found (${python:-nothing} is no program on $(hostname))." \
        "Name it: neurofleet submit --python PATH."
    exit 1
fi
if ! "$python" -P -c 'import importlib.metadata as m; m.version("neurofleet")' 2>/dev/null; then
    echo "neurofleet: neurofleet is not installed for $python on $(hostname), which runs this cluster's Ray. Install" \
        "it there and on the workers, or name the Python that has it: neurofleet submit --python PATH."
    exit 1
fi
exec "$python" -P -c 'from neurofleet.__main__ import main; main()' drive "$@"
