package main

import (
	"testing"
	"time"
)

func TestWhenAccessEnds(t *testing.T) {
	zone := time.FixedZone("here", 2*60*60)
	now := time.Date(2026, 3, 1, 12, 0, 0, 500, zone)
	for text, want := range map[string]string{
		"":                          "",
		"never":                     "",
		"8h":                        "2026-03-01T18:00:00Z",
		"30d":                       "2026-03-31T10:00:00Z",
		"2026-03-01":                "2026-03-01T22:00:00Z", // all of today, here
		"2026-12-31":                "2026-12-31T22:00:00Z",
		"2026-12-31T18:00:00Z":      "2026-12-31T18:00:00Z",
		"2026-12-31T18:00:00+05:00": "2026-12-31T13:00:00Z",
	} {
		got, err := parseExpiry(text, now)
		if err != nil {
			t.Errorf("%q: got %v, want %s", text, err, want)
			continue
		}
		if s := got.Format(time.RFC3339); s != want && !(want == "" && got.IsZero()) {
			t.Errorf("%q: got %s, want %s", text, s, want)
		}
	}
	for _, text := range []string{"0h", "-1h", "0d", "-3d", "d", "2026-02-28", "2026-02-30", "2026-01-01T00:00:00Z", "tomorrow"} {
		if got, err := parseExpiry(text, now); err == nil {
			t.Errorf("%q: got %v, want a refusal", text, got)
		}
	}
}
