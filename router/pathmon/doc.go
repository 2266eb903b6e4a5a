// Package pathmon follows the path to an endpoint, and notices when the machine slept.
//
// A path is the kernel's answer to a route lookup with our socket mark, so our own TUN and the rules that lead into it do
// not count. When a link, an address, a route or a rule changes, the lookup is repeated; the same answer is no change. A
// lost path is reported at once. A new path is reported when nothing has changed for a while, because a network that comes
// up makes many changes in a row.
//
// logind reports sleep where it runs; elsewhere a jump of the wall clock shows it.
//
// It changes nothing on the host, sends no packets and does not know what a path is used for. Paths are followed on Linux
// only: elsewhere Run returns errors.ErrUnsupported. The wall clock works everywhere.
package pathmon
