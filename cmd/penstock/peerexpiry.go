package main

import (
	"strconv"
	"strings"
	"time"
)

const expiresUsage = "`WHEN` the peer's access ends: 8h, 30d, 2026-12-31 or 2026-12-31T18:00:00Z; never"

// parseExpiry reads when access ends: after a duration, at the end of a day here, or at a moment. Zero is never.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if text == "" || text == "never" {
		return time.Time{}, nil
	}
	until, err := expiry(text, now)
	if err != nil {
		return time.Time{}, usagef("--expires is %q: write 8h, 30d, 2026-12-31, 2026-12-31T18:00:00Z or never", text)
	}
	if !until.After(now) {
		return time.Time{}, usagef("--expires is %q, which is over", text)
	}
	return until.UTC().Truncate(time.Second), nil
}

func expiry(text string, now time.Time) (time.Time, error) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseUint(days, 10, 16)
		return now.AddDate(0, 0, int(n)), err
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	if day, err := time.ParseInLocation(time.DateOnly, text, now.Location()); err == nil {
		return day.AddDate(0, 0, 1), nil
	}
	return time.Parse(time.RFC3339, text)
}
