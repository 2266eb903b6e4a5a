// Package firewall is the nftables table that keeps what is captured from leaving the host in clear, also while
// penstock does not run.
//
// It keeps no journal, decides nothing about what is captured, and touches no table but its own. Linux only.
package firewall
