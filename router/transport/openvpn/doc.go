// Package openvpn is a transport.Driver that speaks the OpenVPN protocol as a client: UDP and TCP, every
// control-channel protection (tls-auth, tls-crypt, tls-crypt-v2, dynamic), AEAD data channels in the classic and the
// epoch format, renegotiation without loss, and .ovpn profiles as they are.
//
// A Client joins an inner Device (a stack's) with one server. It brings sessions up and down and keeps the Device;
// what the server pushes is handed to Config.Configure as plain Settings. A profile is data: nothing in it is ever run.
//
// The package does not retry, does not decide when to connect, touches no route, address or resolver of the host, and
// does not do static-key mode, CBC ciphers, compression, fragmentation or TAP devices.
package openvpn
