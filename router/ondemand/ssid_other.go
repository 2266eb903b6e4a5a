//go:build !linux

package ondemand

// SSID returns "": it is known on Linux only.
func SSID(string) string { return "" }
