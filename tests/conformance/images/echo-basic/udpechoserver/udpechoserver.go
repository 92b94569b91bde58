// Package udpechoserver has what the conformance suite reads from its UDP echo server.
package udpechoserver

// EchoResponse is the answer to a datagram.
type EchoResponse struct {
	Pod string `json:"pod"`
}
