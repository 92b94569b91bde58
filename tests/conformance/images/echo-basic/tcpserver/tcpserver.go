// Package tcpserver has what the conformance suite reads from its TCP echo server.
package tcpserver

// WelcomeMessage is the first line that the server writes.
const WelcomeMessage = "Gateway API Test TCP Server\n"

// TCPAssertions is the answer to TEST.
type TCPAssertions struct {
	Namespace    string         `json:"namespace"`
	Pod          string         `json:"pod"`
	IsTLS        bool           `json:"isTLS"`
	TLSAssertion *TLSAssertions `json:"tls"`
}

// TLSAssertions is the connection's TLS, as the server saw it.
type TLSAssertions struct {
	ServerName         string `json:"serverName"`
	NegotiatedProtocol string `json:"negotiatedProtocol"`
}
