// Package resolvedtest imitates systemd-resolved on a system bus of its own.
//
// It answers no DNS questions. Linux only.
package resolvedtest
