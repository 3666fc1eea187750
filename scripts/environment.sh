# Sourced by scripts/demo, scripts/docs and scripts/test: makes or reuses .venv, from any folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

say() { printf '\033[1m== %s\033[0m\n' "$*"; }

# The newest Python at hand that the package takes; PYTHON names another.
find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13 python; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "lit-od: wanted Python 3.11 or later with venv, found none; set PYTHON to one" >&2
    exit 2
}

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome || command -v chrome; }

# Tests of pages need a browser, and are skipped where there is none.
ensure_browser() {
    if ! has_browser >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing Chromium for the tests of pages"
        {
            timeout 60 apt-get update -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10
            DEBIAN_FRONTEND=noninteractive timeout 240 apt-get install -qq --no-install-recommends chromium
        } >/dev/null 2>&1 </dev/null || true
    fi
    has_browser >/dev/null || say "No Chromium here: tests of pages are skipped"
}

# Debian's packages for the runners that are missing here, a line each.
missing_for_runners() {
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
    command -v cc >/dev/null || printf '%s\n' gcc libc6-dev
    command -v cmake >/dev/null || printf '%s\n' cmake make
    [ -e /usr/include/jpeglib.h ] || echo libjpeg-dev
    [ -e /usr/include/png.h ] || echo libpng-dev
}

# Tests of runners need compilers, Node.js and packages of npm, and are skipped where there are none.
ensure_runtimes() {
    local missing package runner wanted
    mapfile -t missing < <(missing_for_runners)
    if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "Installing ${missing[*]} for the tests of runners"
        {
            timeout 60 apt-get update -qq -o Acquire::Retries=0 -o Acquire::http::Timeout=10
            for package in "${missing[@]}"; do  # each alone: one that cannot be installed keeps out no other
                DEBIAN_FRONTEND=noninteractive timeout 120 apt-get install -qq --no-install-recommends "$package"
            done
        } >/dev/null 2>&1 </dev/null || true
    fi
    command -v npm >/dev/null || { say "No npm here: tests of some runners are skipped"; return 0; }
    for runner in node web; do
        wanted=$(cksum <"runners/$runner/package-lock.json")
        if [ "$(cat "runners/$runner/node_modules/.lit-od-installed" 2>/dev/null)" != "$wanted" ]; then
            say "Installing npm's packages for runners/$runner"
            # Without scripts: that of onnxruntime-node fetches libraries for CUDA.
            if timeout 120 npm ci --prefix "runners/$runner" --ignore-scripts --no-audit --no-fund --fetch-retries 0 \
                >/dev/null 2>&1 </dev/null; then
                echo "$wanted" >"runners/$runner/node_modules/.lit-od-installed"
            else
                say "npm cannot install them: tests of some runners are skipped"
                return 0
            fi
        fi
    done
}

# What was installed is noted in the environment, so that a second run installs nothing.
ensure_environment() {
    local python wanted
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        python=$(find_python) || exit 2
        say "Making .venv with $python"
        "$python" -m venv --clear .venv
    fi
    wanted=$(cksum <pyproject.toml)
    if [ "$(cat .venv/lit-od-installed 2>/dev/null)" != "$wanted" ]; then
        say "Installing lit-od with everything that trains and tests (several minutes the first time)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[train,cpu,serve,ray,video,dev]'
        echo "$wanted" >.venv/lit-od-installed
    else
        say "Using .venv as it is"
    fi
}

# What builds the documentation comes on top of the same environment, and is noted beside.
ensure_documentation_tools() {
    local wanted
    wanted=$(cksum <pyproject.toml)
    if [ "$(cat .venv/lit-od-docs-installed 2>/dev/null)" != "$wanted" ]; then
        say "Installing what builds the documentation"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
        echo "$wanted" >.venv/lit-od-docs-installed
    fi
}
