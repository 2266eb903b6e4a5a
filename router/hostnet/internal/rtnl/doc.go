// Package rtnl converts between Go's types of addresses and those of the netlink library.
//
// It changes nothing in the kernel.
package rtnl
