// Package hostnet is the host side of penstock: the addresses on our TUN, the routes and rules that
// bring captured traffic into it, the mark by which our own sockets stay out of it, the nftables set
// that keeps everything else from leaving in clear, and the resolver settings.
//
// Every change is written to a journal before it is made, so that the next start, or [Cleanup],
// undoes what a killed process left behind. What others remove is put back by [Host.Watch].
//
// It works by policy routing, never by prefix length. With RulePriority P, for IPv4 and IPv6:
//
//	P    marked                                 -> main
//	P+1  marked                                 -> unreachable        main had no route: never into the TUN
//	P+2  from the TUN                           -> main, no default   replies to containers and the like
//	P+2  DHCP, and to Exclude                   -> main               a lease can be renewed
//	P+3  DNS                                    -> our table          only with LAN: its resolver is not asked
//	P+4  to connected networks                  -> main               only with LAN, see [Settings]
//	P+4  bound to another interface (IPv4)      -> main, no default   a new network's gateway can be set
//	P+5  not marked                             -> our table          one route per captured prefix, into the TUN
//	P+6  not marked [to a captured prefix]      -> unreachable        stays when the TUN is gone: fails closed
//
// The local table still answers first. A more specific route in main, from DHCP option 121 or a router
// advertisement, is never asked for captured traffic. Replies of connections that came in from beyond
// the connected networks are captured like everything else that is not marked: who administers the host
// from afar names that network in Exclude.
//
// It creates no TUN device, moves no packet, follows no path (see router/pathmon) and starts no other
// program. Linux only: elsewhere every call returns errors.ErrUnsupported.
package hostnet
