package edition

import (
	"reflect"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
)

// Changes returns the names of the sections that differ, and which of them need a restart.
func Changes(old, cfg *config.Config) (changed, restart []string) {
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*cfg)
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" || reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			continue
		}
		changed = append(changed, name)
		unwatched := name == "on_demand" && len(old.OnDemand) == 0            // the network is watched only if on_demand was set at the start
		held := name == "always_on" && old.AlwaysOn.Hold != cfg.AlwaysOn.Hold // the rest of always_on takes effect at once
		if unwatched || held || slices.Contains([]string{"listen", "transports", "metrics", "control", "limits", "flow_log", "captive_portal"}, name) {
			restart = append(restart, name)
		}
	}
	return changed, restart
}
