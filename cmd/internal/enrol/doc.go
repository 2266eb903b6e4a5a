// Package enrol lets people become peers of a gateway by invitation.
//
// An operator makes an invitation and sends its link. Whoever opens the link first, with penstock join or in a browser, makes a key
// there and sends its public half. The gateway writes the peer's file and answers with the peer's configuration, which lacks only
// the private key. A link works once, for a while, and until it is taken back.
//
// To read it, start at (*Enrolment).redeem. The token in a link is 128 random bits, and the gateway keeps only its digest. The
// token stands behind the # of the link, so no browser sends it with the address, and no server on the way logs it.
//
// It does not judge peers, and knows nobody who has joined: from then on they are peers like all others.
package enrol
