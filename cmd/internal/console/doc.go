// Package console serves the page on which people see what penstock does, ask why, and change it.
//
// The page is static and asks the calls of package control, which it is handed, as a client of the control socket would. The
// server listens on loopback only, and is meant for one browser of whoever may use the control socket: a link with a token that
// works once becomes a session. A session is a cookie and a key that the page keeps. Both are needed for each request: other
// programs on this host may be sent the cookie by the browser, because a cookie belongs to a host and not to a port, but never the
// key; and a page of another origin has neither.
//
// The package knows nothing of flows or policy, and decides nothing but who may come in.
package console
