package show

// Verdict is a verdict as a rule writes it.
func Verdict(verdict, via string) string {
	if verdict == "via" {
		return "via " + via
	}
	return verdict
}

// Rule is a rule with the category that it matched.
func Rule(rule, category string) string {
	if category != "" {
		return rule + " (" + category + ")"
	}
	return rule
}
