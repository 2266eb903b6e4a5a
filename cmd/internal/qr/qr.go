// Package qr is the code with which a browser makes QR codes: the console and the page for joining serve it.
//
// It makes no code itself, and serves nothing.
package qr

import _ "embed"

//go:embed qr.mjs
var script string

// Script returns a module of JavaScript that exports qrMatrix(text): the modules of a QR code as rows of 0 and 1, without the quiet zone,
// or null if the text is too long. It imports nothing.
func Script() []byte { return []byte(script) }
