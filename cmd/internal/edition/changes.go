package edition

import (
	"reflect"
	"slices"
	"strings"

	"penstock/cmd/internal/config"
)

// Changes returns the names of the sections that differ, and which of them need a restart. Where a value is written makes no
// difference.
func Changes(old, cfg *config.Config) (changed, restart []string) {
	a, b := reflect.ValueOf(*old), reflect.ValueOf(*cfg)
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" || same(a.Field(i), b.Field(i)) {
			continue
		}
		changed = append(changed, name)
		unwatched := name == "on_demand" && len(old.OnDemand) == 0            // the network is watched only if on_demand was set at the start
		held := name == "always_on" && old.AlwaysOn.Hold != cfg.AlwaysOn.Hold // the rest of always_on takes effect at once
		restarts := []string{"listen", "transports", "metrics", "control", "limits", "flow_log", "history", "console", "captive_portal", "state_dir", "managed", "fleet"}
		if unwatched || held || name == "dns" && opened(old.DNS, cfg.DNS) || slices.Contains(restarts, name) {
			restart = append(restart, name)
		}
	}
	return changed, restart
}

// opened reports whether the DNS server would have other addresses of the host.
func opened(old, next config.DNS) bool {
	var a, b config.DNSServe
	if old.Serve != nil {
		a = *old.Serve
	}
	if next.Serve != nil {
		b = *next.Serve
	}
	return !slices.Equal(old.Listen, next.Listen) || !slices.Equal(a.HTTPS, b.HTTPS) || !slices.Equal(a.TLS, b.TLS)
}

// same compares two values of one type without the positions in them.
func same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return same(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !same(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Map:
		if a.Len() != b.Len() {
			return false
		}
		for _, key := range a.MapKeys() {
			other := b.MapIndex(key)
			if !other.IsValid() || !same(a.MapIndex(key), other) {
				return false
			}
		}
		return true
	case reflect.Struct:
		if a.Type() == reflect.TypeFor[config.Position]() {
			return true
		}
		if a.NumField() > 0 && !a.Type().Field(0).IsExported() { // a value of the standard library
			return reflect.DeepEqual(a.Interface(), b.Interface())
		}
		for i := range a.NumField() {
			if !same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}
