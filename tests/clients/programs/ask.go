// Asks what a plan says, with Go's net/http: `ask h1|h2 BASE ADDRESS < PLAN > RESULTS`. ../README.md says what both are.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

type line struct {
	number, method, path, framing, extra string
	pause, fields, body                  int
}

var (
	version, base, address = os.Args[1], os.Args[2], os.Args[3]
	run                    string
	output                 sync.Mutex
)

func read(text string) line {
	it := strings.Split(text, "\t")
	number := func(at int) int { n, _ := strconv.Atoi(it[at]); return n }
	return line{it[0], it[2], it[3], it[6], it[7], number(1), number(4), number(5)}
}

func client() *http.Client {
	target, _ := url.Parse(base)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(address, target.Port()))
		},
		DisableCompression:    true,
		MaxIdleConnsPerHost:   256,
		ExpectContinueTimeout: 5 * time.Second,
		Protocols:             new(http.Protocols),
	}
	transport.Protocols.SetHTTP1(version == "h1")
	transport.Protocols.SetUnencryptedHTTP2(version == "h2")
	stay := func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &http.Client{Transport: transport, Timeout: 20 * time.Second, CheckRedirect: stay}
}

// A reader whose length net/http cannot see, so that it sends chunks.
type unknown struct{ io.Reader }

func ask(client *http.Client, line line) {
	var body io.Reader
	content := bytes.Repeat([]byte("0123456789abcde\n"), line.body/16+1)[:line.body]
	switch line.framing {
	case "length":
		body = bytes.NewReader(content)
	case "chunked":
		body = unknown{bytes.NewReader(content)}
	}
	request, _ := http.NewRequest(line.method, base+line.path, body)
	request.Header.Set("x-number", line.number)
	request.Header.Set("x-run", run)
	for i := range line.fields {
		request.Header.Set(fmt.Sprintf("x-large-%d", i), strings.Repeat("v", 4096))
	}
	if line.extra == "trailers" {
		request.Header.Set("te", "trailers")
		if line.framing == "chunked" {
			request.Trailer = http.Header{"X-Sum": {strconv.Itoa(line.body)}}
		}
	}
	if line.extra == "expect" {
		request.Header.Set("expect", "100-continue")
	}
	got, err := client.Do(request)
	var heard []byte
	if err == nil {
		heard, err = io.ReadAll(got.Body)
		got.Body.Close()
	}
	output.Lock()
	defer output.Unlock()
	if err != nil {
		fmt.Printf("%s\t0\t-\t0\t-\t\t\t\t%s\n", line.number, url.QueryEscape(err.Error()))
		return
	}
	text := ""
	if len(heard) <= 4096 {
		text = url.QueryEscape(string(heard))
	}
	head := got.Header.Clone()
	head["transfer-encoding"] = got.TransferEncoding
	for name := range got.Trailer {
		head.Add("trailer", strings.ToLower(name))
	}
	fmt.Printf("%s\t%d\th%d\t%d\t%x\t%s\t%s\t%s\t\n", line.number, got.StatusCode, got.ProtoMajor, len(heard), sha256.Sum256(heard),
		text, lines(head), lines(got.Trailer))
}

func lines(fields http.Header) string {
	var all []string
	for name, values := range fields {
		for _, value := range values {
			all = append(all, name+": "+value+"\n")
		}
	}
	sort.Strings(all)
	return url.QueryEscape(strings.Join(all, ""))
}

func flood(client *http.Client, width int, all []line) {
	var workers sync.WaitGroup
	left := make(chan line)
	for range width {
		workers.Go(func() {
			for line := range left {
				ask(client, line)
			}
		})
	}
	for _, line := range all {
		left <- line
	}
	close(left)
	workers.Wait()
}

// Each pair on a client of its own: the second goes to a connection that has been idle for the pause.
func pairs(all []line) {
	var done sync.WaitGroup
	for i := 0; i < len(all); i += 2 {
		done.Go(func() {
			own := client()
			ask(own, all[i])
			time.Sleep(time.Duration(all[i+1].pause) * time.Millisecond)
			ask(own, all[i+1])
			own.CloseIdleConnections()
		})
	}
	done.Wait()
}

func main() {
	shared := client()
	var phase []string
	var all []line
	perform := func() {
		if len(all) > 0 && phase[0] == "flood" {
			width, _ := strconv.Atoi(phase[1])
			flood(shared, width, all)
		} else {
			pairs(all)
		}
		all = nil
	}
	input := bufio.NewScanner(os.Stdin)
	input.Scan()
	run = input.Text()
	for input.Scan() {
		if text := input.Text(); strings.Contains(text, "\t") {
			all = append(all, read(text))
		} else {
			perform()
			phase = strings.Fields(text)
		}
	}
	perform()
}
