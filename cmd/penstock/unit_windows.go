package main

// unitWarnings returns nothing: there is no service unit.
func unitWarnings(string, []string, bool) []string { return nil }
