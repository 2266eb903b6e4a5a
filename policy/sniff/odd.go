package sniff

import "bytes"

// Some servers take for a request what is none. CherryPy, Django and Java's HttpServer take any method, also a binary or a very long one;
// Twisted takes any three words, Node the versions of other protocols, and waitress any line. They go by the Host field behind it. So the
// first line of what does not look like a request passes, as it must in other protocols, and what follows is read on.

// maxOdd is how long a stream is watched for the end of such a line, in bytes. waitress takes heads of 256 KiB.
const maxOdd = 256 << 10

// oddLine is what is known of that line: the beginning of its last word.
type oddLine struct {
	word   [16]byte
	n      int  // bytes in word
	inside bool // the last byte was of that word
	cr     bool // the last byte was a carriage return
	scheme int  // bytes of "://" behind the first token of that word
	url    bool // a word starts like a URL
	second bool // a line feed came without a carriage return, which ends the line for some servers only
	long   bool // it began like a request: the line may have any size
	size   int  // bytes
}

func (l *oddLine) add(b []byte) {
	for _, c := range b {
		switch {
		case isBlank(c) || c == '\n':
			l.inside = false
		case !l.inside:
			l.word[0], l.n, l.inside, l.scheme = c, 1, true, 0
		case l.n < len(l.word):
			l.word[l.n] = c
			l.n++
		}
		switch {
		case l.scheme < 3 && c == "://"[l.scheme]:
			l.scheme++
			l.url = l.url || l.scheme == 3
		case l.scheme > 0 || tokenLen([]byte{c}) == 0:
			l.scheme = 3 // of a word that is none
		}
		l.cr = c == '\r'
	}
	l.size += len(b)
}

// namesVersion reports whether the last word is a version of HTTP.
func (l *oddLine) namesVersion() bool {
	const version = "HTTP/1.1"
	w := l.word[:l.n]
	return len(w) == len(version) && bytes.EqualFold(w[:5], []byte(version[:5])) && allDigits(w[5:6]) && w[6] == '.' && allDigits(w[7:])
}

// ends reports whether a line feed behind what was added ends the line, for a server that takes it for a request line of HTTP, and for any
// other.
func (l *oddLine) ends() (request, line bool) {
	request = l.namesVersion() && (l.cr || !l.second)
	l.second = l.second || l.n > 0
	return request, l.cr && l.n > 0
}

// MayBeOdd reports whether no head has ended yet, and none that most servers take has begun. So a server that has answered takes none.
func (r *Requests) MayBeOdd() bool {
	return !r.followed && (r.at == partHead || r.at == partOddLine || r.at == partFields)
}

// beginOdd reads b as a first line that is odd. What was released of it is in r.begun. long says that it may have any size.
func (r *Requests) beginOdd(b []byte, long bool) (int, Result) {
	r.at, r.odd = partOddLine, oddLine{long: long}
	r.odd.add(r.begun)
	r.begun = nil
	return r.passOddLine(b)
}

func (r *Requests) passOddLine(b []byte) (int, Result) {
	for n := 0; ; {
		end := bytes.IndexByte(b[n:], '\n')
		if end < 0 {
			r.odd.add(b[n:])
			if r.odd.size > maxOdd && !r.odd.long {
				return r.opaque(b)
			}
			return len(b), needMore(Unknown)
		}
		r.odd.add(b[n : n+end])
		n += end + 1
		switch request, line := r.odd.ends(); {
		case request && r.odd.url:
			return r.broken() // servers may go by the URL
		case request:
			r.at = partOddHead
			return n, needMore(HTTP)
		case line:
			r.at, r.fields, r.line = partFields, new(head), nil
			return n, needMore(Unknown)
		}
		r.odd.add(b[n-1 : n])
	}
}

// readOddHead reads the head behind an odd line that names a version of HTTP.
func (r *Requests) readOddHead(b []byte) (int, Result) {
	const line = "ODD / HTTP/1.1\r\n"
	var h head
	h.read(append([]byte(line), b...))
	switch {
	case h.res.Status == NeedMore:
		return 0, h.res
	case h.res.Status == NotThis, h.res.Ambiguous:
		return r.broken()
	}
	r.follow(&h)
	return h.size - len(line), h.res
}

// maxField is how much of a field is kept that has no end yet, in bytes.
const maxField = 1024

// passFields releases the lines behind another odd line, as long as they are fields, and judges a Host field. It holds nothing else, for the
// conversation may be one of another protocol.
func (r *Requests) passFields(b []byte) (int, Result) {
	part, whole := cutLine(b)
	if !whole {
		part = b
	}
	line := append(r.line[:len(r.line):len(r.line)], part...)
	name := tokenLen(line)
	begun := r.fields.res.Protocol == HTTP // there was a field
	switch {
	case string(line) == "\r\n":
		r.line = nil
		if both := sawLength | sawChunked; r.fields.fields&both == both {
			return r.broken()
		}
		r.follow(r.fields)
		return len(part), needMore(Unknown)
	case !whole && len(line) <= maxField && (name == len(line) || string(line) == "\r"):
		r.line = line
		return len(part), needMore(Unknown)
	case begun && (line[0] == ' ' || line[0] == '\t'): // waitress adds it to the field before
		return r.broken()
	case name == 0 || name == len(line) || line[name] != ':':
		return r.opaque(b)
	}
	r.fields.res.Protocol = HTTP
	isHost := bytes.EqualFold(line[:name], []byte("Host"))
	switch {
	case !whole && isHost && len(b) > maxField:
		return r.broken()
	case !whole && isHost:
		return 0, needMore(HTTP)
	case !whole:
		r.line = line[:min(len(line), maxField)]
		return len(part), needMore(Unknown)
	}
	r.line = nil
	counts := isHost || bytes.EqualFold(line[:name], []byte("Content-Length")) || bytes.EqualFold(line[:name], []byte("Transfer-Encoding"))
	ok := !counts || r.fields.fieldLine(line)
	switch kind := r.fields.hosts.fieldKind; {
	case !ok && !isHost:
		return r.opaque(b)
	case !ok, isHost && kind == hostIllegal && bytes.IndexByte(line, '.') >= 0: // a virtual host of RabbitMQ has any name
		return r.broken()
	case isHost && kind == hostName:
		return len(part), r.fields.hosts.result(HTTP)
	}
	return len(part), needMore(Unknown)
}
