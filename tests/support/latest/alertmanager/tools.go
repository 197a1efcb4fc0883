//go:build tools

// A current Alertmanager for `scripts/test-deps.sh --latest`; go.mod has the version. A module apart from Prometheus: the two
// do not agree on their dependencies.
package alertmanager

import (
	_ "github.com/prometheus/alertmanager/cmd/alertmanager"
	_ "github.com/prometheus/alertmanager/cmd/amtool"
)
