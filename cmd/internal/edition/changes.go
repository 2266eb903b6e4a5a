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
	a, b, k := reflect.ValueOf(*old), reflect.ValueOf(*cfg), comparison{old.Fleet, cfg.Fleet}
	for i := range a.NumField() {
		f := a.Type().Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" || k.same(a.Field(i), b.Field(i)) {
			continue
		}
		changed = append(changed, name)
		unwatched := name == "on_demand" && len(old.OnDemand) == 0            // the network is watched only if on_demand was set at the start
		held := name == "always_on" && old.AlwaysOn.Hold != cfg.AlwaysOn.Hold // the rest of always_on takes effect at once
		restarts := []string{"listen", "transports", "metrics", "control", "limits", "acme", "flow_log", "history", "console", "captive_portal", "state_dir", "managed", "fleet"}
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

// comparison compares values of two configurations. Each may have files in a bundle of its own.
type comparison struct{ old, next *config.Fleet }

// same compares two values of one type without the positions in them. What is in bundles is the same if it has the same name there, and
// a secret if it is the same.
func (k comparison) same(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.String:
		return k.old.Below(a.String()) == k.next.Below(b.String())
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() == b.IsNil()
		}
		return k.same(a.Elem(), b.Elem())
	case reflect.Slice:
		if a.Len() != b.Len() {
			return false
		}
		for i := range a.Len() {
			if !k.same(a.Index(i), b.Index(i)) {
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
			if !other.IsValid() || !k.same(a.MapIndex(key), other) {
				return false
			}
		}
		return true
	case reflect.Struct:
		switch a.Type() {
		case reflect.TypeFor[config.Position]():
			return true
		case reflect.TypeFor[config.Secret]():
			return k.sameSecret(a.Interface().(config.Secret), b.Interface().(config.Secret))
		case reflect.TypeFor[config.PeerList]():
			then, now := a.Interface().(config.PeerList), b.Interface().(config.PeerList)
			return k.samePeers(&then, &now)
		case reflect.TypeFor[config.Fleet]():
			then, now := a.Interface().(config.Fleet), b.Interface().(config.Fleet)
			then.Bundle, then.Generation, then.Pos = now.Bundle, now.Generation, now.Pos
			return reflect.DeepEqual(then, now)
		case reflect.TypeFor[config.EnrolListen]():
			then, now := a.Interface().(config.EnrolListen), b.Interface().(config.EnrolListen)
			if k.old != nil && k.next != nil { // each bundle brings these anew, and they are in force with it
				then.Certificate, then.PrivateKey = now.Certificate, now.PrivateKey
			}
			then.Pos = now.Pos
			return then == now
		}
		if a.NumField() > 0 && !a.Type().Field(0).IsExported() { // a value of the standard library
			return reflect.DeepEqual(a.Interface(), b.Interface())
		}
		for i := range a.NumField() {
			if !k.same(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// samePeers is same for lists of peers.
func (k comparison) samePeers(then, now *config.PeerList) bool {
	if then.Len() != now.Len() {
		return false
	}
	for i, a := range then.All() {
		b := now.At(i)
		b.Pos = a.Pos
		if plain := a.PresharedKey.IsZero() && a.ProxyPassword.IsZero(); plain && a.SameAs(b) {
			continue
		}
		if !k.same(reflect.ValueOf(a), reflect.ValueOf(b)) {
			return false
		}
	}
	return true
}

// sameSecret compares where secrets are, and those in bundles themselves.
func (k comparison) sameSecret(a, b config.Secret) bool {
	if !k.old.Has(a.File) || !k.next.Has(b.File) {
		return a == b
	}
	then, failed := a.Read()
	now, err := b.Read()
	return failed == nil && err == nil && then == now
}
