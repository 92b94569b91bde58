package conformance

import (
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/gateway-api/conformance/utils/echo"
	"sigs.k8s.io/gateway-api/conformance/utils/http"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// A request, and the answer that is right.
type exchange struct {
	path string
	// Of the query; each request has a uuid of its own beside.
	query  url.Values
	status int
}

func init() {
	meshTests = append(meshTests,
		exchanges("MeshHTTPRouteRetry", "Retries follow codes and attempts", "mesh-httproute-retry.yaml", []exchange{
			{"/retry/code-500-attempts-3", failing(500, 2), 200},
			{"/retry/code-500-attempts-3", failing(500, 3), 200},
			{"/retry/code-500-attempts-3", failing(500, 4), 500},
			{"/retry/code-500-attempts-3", failing(503, 2), 503},
			{"/retry/code-all-attempts-2", failing(500, 1), 200},
			{"/retry/code-all-attempts-2", failing(502, 1), 200},
			{"/retry/code-all-attempts-2", failing(503, 2), 200},
			{"/retry/code-all-attempts-2", failing(504, 1), 200},
			{"/retry/code-all-attempts-2", failing(500, 3), 500},
			{"/retry/code-all-attempts-0", failing(503, 1), 503},
			{"/retry/none", failing(503, 1), 503},
		}),
		exchanges("MeshHTTPRouteRetryWithTimeouts", "Timeouts hold over retries", "mesh-httproute-retry-with-timeouts.yaml", []exchange{
			{"/retry/request-timeout-500ms", failing(500, 1), 200},
			{"/retry/request-timeout-500ms", with(failing(500, 2), "delayRetry", "300ms"), 504},
			{"/retry/backend-timeout-500ms", with(with(failing(500, 2), "delayRetry", "100ms"), "delay", "100ms"), 200},
			{"/retry/backend-timeout-500ms", with(failing(500, 1), "delay", "2s"), 504},
		}),
		exchanges("MeshHTTPRouteTimeouts", "Timeouts of a request and of a try", "mesh-httproute-timeouts.yaml", []exchange{
			{"/request-timeout", nil, 200},
			{"/request-timeout", url.Values{"delay": {"1s"}}, 504},
			{"/disable-request-timeout", url.Values{"delay": {"1s"}}, 200},
			{"/backend-timeout", nil, 200},
			{"/backend-timeout", url.Values{"delay": {"1s"}}, 504},
			{"/disable-backend-timeout", url.Values{"delay": {"1s"}}, 200},
		}),
		suite.ConformanceTest{
			ShortName:   "MeshHTTPRouteRetryConnectionError",
			Description: "A request whose endpoint does not listen is sent to another",
			Manifests:   []string{"manifests/mesh-httproute-retry-connection-error.yaml"},
			Features:    []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute},
			Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
				client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
				patience := s.TimeoutConfig
				patience.RequiredConsecutiveSuccesses = 20
				client.MakeRequestAndExpectEventuallyConsistentResponse(t, http.ExpectedResponse{
					Request:  http.Request{Host: "echo", Path: "/retry-on-connection-errors"},
					Response: http.Response{StatusCode: 200},
					Backend:  "connection-error-healthy",
				}, patience)
			},
		},
		suite.ConformanceTest{
			ShortName:   "MeshHTTPRouteRequestMirror",
			Description: "A mirror gets the requests that it should, and its answers go nowhere",
			Manifests:   []string{"manifests/mesh-httproute-request-mirror.yaml"},
			Features:    []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute},
			Test:        mirrors,
		},
		suite.ConformanceTest{
			ShortName:   "MeshHTTPRouteCORS",
			Description: "Preflights are answered, and answers marked, as the filter says",
			Manifests:   []string{"manifests/mesh-httproute-cors.yaml"},
			Features:    []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute},
			Test:        crossOrigin,
		},
	)
}

// A server that answers so until it was asked so often.
func failing(code, times int) url.Values {
	return url.Values{"responseCode": {strconv.Itoa(code)}, "succeedAfter": {strconv.Itoa(times)}}
}

func with(values url.Values, name, value string) url.Values {
	values.Set(name, value)
	return values
}

// A test of exchanges with the Service `echo`, whose rules answer from echo-v1.
func exchanges(name, description, manifest string, all []exchange) suite.ConformanceTest {
	return suite.ConformanceTest{
		ShortName:   name,
		Description: description,
		Manifests:   []string{"manifests/" + manifest},
		Features:    []features.FeatureName{features.SupportMesh, features.SupportHTTPRoute},
		Test: func(t *testing.T, s *suite.ConformanceTestSuite) {
			client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
			for _, one := range all {
				t.Run(fmt.Sprintf("%s?%s is answered %d", one.path, one.query.Encode(), one.status), func(t *testing.T) {
					converge(t, s, &client, one)
				})
			}
		},
	}
}

// Asks until the right answer comes several times in a row; each request is one that the server has not seen.
func converge(t *testing.T, s *suite.ConformanceTestSuite, client *echo.MeshPod, one exchange) {
	t.Helper()
	http.AwaitConvergence(t, s.TimeoutConfig, func(time.Duration) bool {
		query := url.Values{"uuid": {uuid.NewString()}}
		for name, values := range one.query {
			query[name] = values
		}
		expected := http.ExpectedResponse{
			Request:  http.Request{Host: "echo", Path: one.path + "?" + query.Encode()},
			Response: http.Response{StatusCode: one.status},
		}
		if one.status == 200 {
			expected.Backend = "echo-v1"
		}
		_, _, err := client.CaptureRequestResponseAndCompare(t, expected)
		return err == nil
	})
}

var heard = regexp.MustCompile(`Heard=(\d+)`)

func mirrors(t *testing.T, s *suite.ConformanceTestSuite) {
	client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
	const requests = 100
	for _, one := range []struct {
		path      string
		low, high int
	}{
		{"/mirror-all", requests, requests},
		{"/mirror-percent", requests / 4, 3 * requests / 4},
		{"/mirror-fraction", requests / 20, requests / 2},
		{"/mirror-none", 0, 0},
	} {
		t.Run(fmt.Sprintf("%s gets %d to %d of %d", one.path, one.low, one.high, requests), func(t *testing.T) {
			converge(t, s, &client, exchange{one.path, nil, 200})
			name := uuid.NewString()
			_, err := client.RequestBatch(t, http.ExpectedResponse{
				Request:  http.Request{Host: "echo", Path: one.path + "?uuid=" + name},
				Response: http.Response{StatusCode: 200},
				Backend:  "echo-v1",
			}, requests)
			require.NoError(t, err)
			count := -1
			require.Eventually(t, func() bool {
				_, said, err := client.CaptureRequestResponseAndCompare(t, http.ExpectedResponse{
					Request:  http.Request{Host: "echo-v2", Path: "/heard?of=" + name},
					Response: http.Response{StatusCode: 200},
				})
				found := heard.FindStringSubmatch(said.RawContent)
				if err != nil || found == nil {
					return false
				}
				count, _ = strconv.Atoi(found[1])
				return count >= one.low
			}, s.TimeoutConfig.MaxTimeToConsistency, time.Second, "the mirror of %s got %d", one.path, count)
			require.LessOrEqual(t, count, one.high)
		})
	}
}

func crossOrigin(t *testing.T, s *suite.ConformanceTestSuite) {
	client := echo.ConnectToApp(t, s, echo.MeshAppEchoV1)
	type fields = map[string]string
	marks := []string{
		"Access-Control-Allow-Origin", "Access-Control-Allow-Methods", "Access-Control-Allow-Headers",
		"Access-Control-Allow-Credentials", "Access-Control-Expose-Headers", "Access-Control-Max-Age",
	}
	lists := fields{
		"Access-Control-Allow-Methods": "GET, OPTIONS", "Access-Control-Allow-Headers": "x-header-1, x-header-2",
		"Access-Control-Expose-Headers": "x-header-3, x-header-4", "Access-Control-Allow-Credentials": "true", "Access-Control-Max-Age": "3600",
	}
	of := func(origin string, more fields) fields {
		all := fields{"Access-Control-Allow-Origin": origin}
		for name, value := range more {
			all[name] = value
		}
		return all
	}
	for _, one := range []struct {
		method, path, origin string
		status               []int
		want                 fields
	}{
		{"OPTIONS", "/cors-lists", "https://www.foo.com", []int{200, 204}, of("https://www.foo.com", lists)},
		{"OPTIONS", "/cors-lists", "https://www.bar.com", []int{200, 204}, of("https://www.bar.com", lists)},
		{"OPTIONS", "/cors-lists", "https://a.b.bar.com", []int{200, 204}, of("https://a.b.bar.com", lists)},
		{"OPTIONS", "/cors-lists", "https://bar.com", []int{200, 204, 403}, nil},
		{"OPTIONS", "/cors-lists", "http://www.foo.com", []int{200, 204, 403}, nil},
		{"OPTIONS", "/cors-lists", "https://www.foo.com.evil.com", []int{200, 204, 403}, nil},
		{"GET", "/cors-lists", "https://www.foo.com", []int{200}, fields{
			"Access-Control-Allow-Origin": "https://www.foo.com", "Access-Control-Allow-Credentials": "true",
			"Access-Control-Expose-Headers": "x-header-3, x-header-4",
		}},
		{"GET", "/cors-lists", "https://other.com", []int{200}, nil},
		{"OPTIONS", "/cors-any-method", "https://www.foo.com", []int{200, 204}, of("https://www.foo.com", fields{
			"Access-Control-Allow-Methods": "*", "Access-Control-Allow-Headers": "*", "Access-Control-Max-Age": "5",
		})},
		{"OPTIONS", "/cors-any-origin", "https://anybody", []int{200, 204}, of("*", fields{"Access-Control-Allow-Methods": "GET"})},
		{"GET", "/cors-any-origin", "https://anybody", []int{200}, fields{"Access-Control-Allow-Origin": "*"}},
		{"OPTIONS", "/cors-credentials", "https://anybody", []int{200, 204}, of("https://anybody", fields{
			"Access-Control-Allow-Methods": "PUT", "Access-Control-Allow-Headers": "x-asked", "Access-Control-Allow-Credentials": "true",
		})},
	} {
		t.Run(fmt.Sprintf("%s %s from %s", one.method, one.path, one.origin), func(t *testing.T) {
			expected := http.ExpectedResponse{
				Request:  http.Request{Host: "echo", Method: one.method, Path: one.path, Headers: fields{"Origin": one.origin}},
				Response: http.Response{StatusCodes: one.status, Headers: one.want},
			}
			if one.method == "OPTIONS" {
				expected.Request.Headers["Access-Control-Request-Method"] = "PUT"
				expected.Request.Headers["Access-Control-Request-Headers"] = "x-asked"
			}
			if one.want == nil {
				expected.Response.AbsentHeaders = marks
			}
			client.MakeRequestAndExpectEventuallyConsistentResponse(t, expected, s.TimeoutConfig)
		})
	}
}
