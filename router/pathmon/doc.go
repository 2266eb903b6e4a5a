// Package pathmon follows the path to an endpoint, and notices when the machine slept.
//
// A path is what the kernel answers for a route lookup with our socket mark, so that our own TUN and
// the rules that lead into it do not count. Changes of links, addresses, routes and rules, whoever
// made them, only cause the question to be asked again: the same answer is no change. A loss is told
// at once; another path when nothing has changed for a while, because a network that comes up makes
// many changes in a row.
//
// Sleep is told by the system where it has a word for it (logind), and by the wall clock elsewhere.
//
// It changes nothing on the host, sends no packet and does not know what a path is used for. Paths are
// followed on Linux only: elsewhere Run returns errors.ErrUnsupported. The wall clock works everywhere.
package pathmon
