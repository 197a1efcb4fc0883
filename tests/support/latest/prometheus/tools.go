//go:build tools

// A current Prometheus for `scripts/test-deps.sh --latest`; go.mod has the version.
package prometheus

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
