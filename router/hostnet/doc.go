// Package hostnet configures the host for our TUN: the addresses on it, the routes and rules that lead captured traffic
// into it, the nftables table that keeps everything else from leaving in clear, and the resolver settings.
//
// Every change is written to a journal before it is made, so that the next start, or [Cleanup], undoes what a killed
// process left behind. [Host.Watch] puts back what other programs remove. Should the journal be lost, the nftables table has notes that
// stand in for it, and the resolver file has its original in it.
//
// It uses policy routing, never prefix lengths. With RulePriority P, for IPv4 and IPv6:
//
//	P    marked                                 -> main
//	P    marked, bound to another VPN's interface -> its table        see [Config].Others
//	P+1  marked                                 -> unreachable        main had no route: never into the TUN
//	P+2  from the TUN                           -> main, no default   replies to containers and the like
//	P+2  DHCP, and to Exclude                   -> main               a lease can be renewed
//	P+3  DNS                                    -> our table          only with LAN: its resolver is not asked
//	P+3  from an address of the TUN             -> our table          only with LAN: no answer to what came out of the TUN goes there
//	P+4  to connected networks                  -> main               only with LAN, see [Settings]
//	P+4  bound to another interface (IPv4)      -> main, no default   a new network's gateway can be set
//	P+5  not marked                             -> our table          one route per captured prefix, into the TUN
//	P+6  [to a captured prefix]                 -> unreachable        stays when the TUN is gone: fails closed
//
// Of IPv4 the last is one rule for each protocol, and an unreachable route in our table, behind those into the TUN: one rule for all would
// also keep the gateways of networks that have just come from being set.
//
// The local table still comes first. Captured traffic never sees a more specific route in main, from DHCP option 121 or a
// router advertisement. Replies to connections from beyond the connected networks are captured like everything else that
// is not marked: if you administer the host from elsewhere, name that network in Exclude.
//
// The packages below it each know one part: direct dials past the TUN, firewall is the nftables table, resolver the
// resolver settings, program finds the program that sends a flow.
//
// It creates no TUN, moves no packets, follows no path (see router/pathmon) and starts no other program. Linux only:
// elsewhere every call returns errors.ErrUnsupported.
package hostnet
