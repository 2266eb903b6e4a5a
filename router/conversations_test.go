package router_test

import (
	"strings"
	"testing"
)

// conversations are what clients of other protocols send, a message at a time: each waits for an answer before the next.
func conversations() map[string][]string {
	hello := string(tlsHello("good.example"))
	get := "GET /?to=http://bad.example/ HTTP/1.1\r\nHost: good.example\r\n\r\n"
	return map[string][]string{
		"SMTP":               {"EHLO me.example\r\n", "MAIL FROM:<me@me.example>\r\n", "DATA\r\n", "Host: bad.bet\r\n\r\ntext\r\n.\r\n"},
		"SMTP with STARTTLS": {"EHLO me.example\r\n", "STARTTLS\r\n", hello},
		"IMAP":               {"a1 CAPABILITY\r\n", "a2 LOGIN me {3}\r\n", "pwd\r\n", "a3 IDLE\r\n", "DONE\r\n"},
		"POP3":               {"USER me\r\n", "PASS GET / HTTP\r\n"},
		"FTP":                {"USER me\r\n", "PASS x\r\n", "LIST /pub\r\n", "MKD /pub/new\r\n"},
		"SSH":                {"SSH-2.0-OpenSSH_9.2\r\n", "\x00\x00\x05\x3c\x07\x14"},
		"MySQL":              {"\x20\x00\x00\x01\x85\xa6\x3f\x20", "\x21\x00\x00\x00\x03select 1"},
		"Postgres with TLS":  {"\x00\x00\x00\x08\x04\xd2\x16\x2f", hello},
		"Redis":              {"*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\na\r\n"},
		"Redis by hand":      {"PING\r\n", "GET user:1\r\n"},
		"memcached":          {"get foo bar\r\n", "set a 0 0 1\r\nx\r\n"},
		"MQTT":               {"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me", "\x30\x05\x00\x01ahi"},
		"AMQP":               {"AMQP\x00\x00\x09\x01", "\x01\x00\x00\x00\x00\x00\x01x\xce"},
		"STOMP":              {"CONNECT\naccept-version:1.2\nhost:broker\n\n\x00", "SEND\ndestination:/a\n\nhi\x00"},
		"STOMP in CR LF":     {"CONNECT\r\naccept-version:1.2\r\nhost:/\r\n\r\n\x00", "SEND\r\ndestination:/a\r\n\r\nhi\x00"},
		"XMPP": {"<?xml version='1.0'?><stream:stream to='good.example' xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>",
			"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>", hello},
		"SIP": {"REGISTER sip:a.example SIP/2.0\r\nVia: SIP/2.0/TCP b\r\nContent-Length: 0\r\n\r\n",
			"INVITE sip:b@a.example SIP/2.0\r\nContent-Length: 5\r\n\r\nv=0\r\n", "ACK sip:b@a.example SIP/2.0\r\n\r\n"},
		"RTSP": {"OPTIONS rtsp://a.example/1 RTSP/1.0\r\nCSeq: 1\r\n\r\n", "SETUP rtsp://a.example/1 RTSP/1.0\r\nCSeq: 2\r\nTransport: RTP/AVP/TCP\r\n\r\n",
			"$\x01\x00\x08\x80\xc9\x00\x01abcd", "TEARDOWN rtsp://a.example/1 RTSP/1.0\r\nCSeq: 3\r\n\r\n"},
		"BitTorrent":      {"\x13BitTorrent protocol\x00\x00\x00\x00\x00\x10\x00\x05" + strings.Repeat("h", 40), "\x00\x00\x00\x01\x02"},
		"RDP":             {"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", hello},
		"VNC":             {"RFB 003.008\n", "\x01", "\x01"},
		"telnet":          {"\xff\xfb\x1f", "m", "e", "\r\x00", "l", "s", " ", "/", "\r\x00"},
		"SOCKS and HTTP":  {"\x05\x01\x00", "\x05\x01\x00\x03\x0cgood.example\x00\x50", get, get},
		"SOCKS and TLS":   {"\x05\x01\x00", "\x05\x01\x00\x03\x0cgood.example\x01\xbb", hello},
		"NATS":            {"CONNECT {\"verbose\":true}\r\n", "SUB a 1\r\n", "PUB a 2\r\nhi\r\n"},
		"IRC":             {"NICK me\r\nUSER me 0 * :me\r\n", "JOIN #a\r\n", "PRIVMSG #a :GET / HTTP/1.1\r\n"},
		"LDAP":            {"0\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\x00\x80\x00", "0\x05\x02\x01\x02\x42\x00"},
		"git":             {"0033git-upload-pack /project.git\x00host=good.example\x00", "0032want 1234 multi_ack agent=git/2.39\n00000009done\n"},
		"git by CONNECT":  {"CONNECT good.example:9418 HTTP/1.1\r\nHost: good.example\r\n\r\n", "0033git-upload-pack /project.git\x00host=good.example\x00", "0000"},
		"a terminal":      {"POST /exec/1/start HTTP/1.1\r\nHost: good.example\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}", "l", "s", " /\r", "exit\r"},
		"Icecast":         {"SOURCE /live HTTP/1.0\r\nContent-Type: audio/mpeg\r\n\r\n", "\xff\xfb\x90\x00\r\n", "\xff\xfb\x90\x00 sound"},
		"Icecast, by PUT": {"PUT /live HTTP/1.1\r\nHost: good.example\r\nExpect: 100-continue\r\n\r\n", "\xff\xfb\x90\x00\r\n", "\xff\xfb\x90\x00 sound"},
		"NTRIP":           {"GET /mount HTTP/1.0\r\nUser-Agent: NTRIP me/1\r\n\r\n", "$GPGGA,120000,5200.0,N,01300.0,E\r\n", "$GPGGA,120005,5200.0,N,01300.0,E\r\n"},
		"ICAP":            {"OPTIONS icap://good.example/scan ICAP/1.0\r\nHost: good.example\r\n\r\n", "RESPMOD icap://good.example/scan ICAP/1.0\r\nHost: good.example\r\nEncapsulated: null-body=0\r\n\r\n"},
		"Asterisk":        {"Action: Login\r\nUsername: me\r\n\r\n", "Action: Ping\r\n\r\n"},
		"WebSocket":       {"GET / HTTP/1.1\r\nHost: good.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "\x81\x85abcdxyzab", "\x89\x80abcd"},
		"DNS":             {"\x00\x1d\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x01\x00\x01"},
	}
}

func TestConversationsOfOtherProtocols(t *testing.T) {
	for name, parts := range conversations() {
		t.Run(name, func(t *testing.T) {
			want := strings.Join(parts, "")
			if heard := crossing(t, 8880, parts); heard != want {
				t.Errorf("if it crosses, the server has heard %q of %q", heard, want)
			}
			if got := terminated(t, []byte(want), 8880); string(got.heard) != want || got.blocked {
				t.Errorf("if it ends here, the server has heard %q of %q", got.heard, want)
			}
		})
	}
}
