package main

import (
	"fmt"
	"strings"

	"penstock/cmd/internal/control"
)

// namedAtMost is of how many gateways the summary of a fleet says what is wrong with them.
const namedAtMost = 5

// fleetGood reports whether all gateways of a fleet serve the newest generation that anybody knows of, and the store can be used.
func fleetGood(f control.Fleet) bool {
	newest := newestGeneration(f)
	for _, g := range f.Gateways {
		if fleetWrong(g, newest) != "" {
			return false
		}
	}
	return f.Connected && f.Generation == newest && f.Trouble == ""
}

// fleetSummary sums up a fleet in one line.
func fleetSummary(f control.Fleet) string {
	newest := newestGeneration(f)
	var wrong []string
	for _, g := range f.Gateways {
		if what := fleetWrong(g, newest); what != "" {
			wrong = append(wrong, g.Name+" "+what)
		}
	}
	text := fmt.Sprintf("%s: %d of %d gateways serve generation %d", f.Site, len(f.Gateways)-len(wrong), len(f.Gateways), newest)
	if len(wrong) == 0 {
		text = fmt.Sprintf("%s: all %d gateways serve generation %d", f.Site, len(f.Gateways), newest)
	}
	if more := len(wrong) - namedAtMost; more > 0 {
		wrong = append(wrong[:namedAtMost], fmt.Sprintf("and %d more", more))
	}
	if len(wrong) > 0 {
		text += ": " + strings.Join(wrong, ", ")
	}
	switch {
	case f.Gateway == "" && f.Generation == 0:
		text += "; the store has no bundle"
	case !f.Connected:
		text += "; the store cannot be used"
	}
	return text
}

// newestGeneration returns the newest generation that is in force anywhere, or in the store.
func newestGeneration(f control.Fleet) uint64 {
	newest := f.Generation
	for _, g := range f.Gateways {
		newest = max(newest, g.Generation)
	}
	return newest
}

// fleetWrong says what a gateway lacks, or "".
func fleetWrong(g control.FleetGateway, newest uint64) string {
	switch {
	case g.State != "serving":
		return "is " + g.State
	case g.Fault != "":
		return fmt.Sprintf("has refused generation %d", g.Refused)
	case g.Generation != newest:
		return fmt.Sprintf("has generation %d", g.Generation)
	}
	return ""
}
