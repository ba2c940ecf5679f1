use super::*;
use crate::call::Service;
use crate::call::tests::call;

const SECOND: Duration = Duration::from_secs(1);

fn run(request: Value) -> Call {
    call(Service::Ecs, "RunTask", request)
}

fn judged(state: &mut State, request: Value, now: Duration) -> String {
    match state.before(&EcsLimits::default(), &run(request), now) {
        Verdict::Forward => "forward".to_owned(),
        Verdict::Answer(answer) => answer.error_code().unwrap_or_else(|| "success".to_owned()),
        other => format!("{other:?}"),
    }
}

fn fresh(request: Value) -> String {
    judged(&mut State::default(), request, Duration::ZERO)
}

/// A state in which this request was made and has launched `task-1`.
fn launched(request: &Value) -> State {
    let mut state = State::default();
    assert_eq!(judged(&mut state, request.clone(), Duration::ZERO), "forward");
    let call = run(request.clone());
    state.after(
        &call,
        &Answer::json(&call, &json!({"tasks": [{"taskArn": "task-1"}], "failures": []})),
        Duration::ZERO,
    );
    state
}

#[test]
fn a_client_token_has_at_most_64_characters() {
    assert_eq!(fresh(json!({"clientToken": "x".repeat(64)})), "forward");
    assert_eq!(fresh(json!({"clientToken": "x".repeat(65)})), "InvalidParameterException");
    assert_eq!(fresh(json!({"clientToken": "a b"})), "InvalidParameterException");
}

#[test]
fn one_to_ten_tasks_start_at_once() {
    let of = |count: u64| fresh(json!({"count": count}));
    assert_eq!([of(0), of(1), of(10), of(11)].map(|it| it == "forward"), [false, true, true, false]);
}

#[test]
fn overrides_with_their_json_have_at_most_8192_characters() {
    let frame = json!({"containerOverrides": [{"name": ""}]}).to_string().len();
    let of = |chars: usize| json!({"overrides": {"containerOverrides": [{"name": "x".repeat(chars - frame)}]}});
    assert_eq!(fresh(of(8192)), "forward");
    let Verdict::Answer(answer) = State::default().before(&EcsLimits::default(), &run(of(8193)), SECOND) else {
        panic!("it was forwarded");
    };
    assert_eq!(answer.value()["message"], "Container Overrides length must be at most 8192");
    assert_eq!(answer.error_code().unwrap(), "InvalidParameterException");
}

#[test]
fn started_by_has_at_most_128_of_few_characters() {
    assert_eq!(fresh(json!({"startedBy": "aZ09-/_".to_owned() + &"x".repeat(121)})), "forward");
    assert_eq!(fresh(json!({"startedBy": "x".repeat(129)})), "InvalidParameterException");
    assert_eq!(fresh(json!({"startedBy": "a#b"})), "InvalidParameterException");
}

#[test]
fn launch_type_and_capacity_providers_exclude_each_other() {
    let strategy = json!([{"capacityProvider": "FARGATE_SPOT"}]);
    assert_eq!(fresh(json!({"capacityProviderStrategy": strategy})), "forward");
    assert_eq!(fresh(json!({"launchType": "FARGATE", "capacityProviderStrategy": []})), "forward");
    assert_eq!(
        fresh(json!({"launchType": "FARGATE", "capacityProviderStrategy": strategy})),
        "InvalidParameterException"
    );
}

#[test]
fn the_same_token_with_the_same_parameters_has_the_same_answer() {
    let request = json!({"clientToken": "t", "taskDefinition": "d"});
    let mut state = launched(&request);
    let Verdict::Answer(again) = state.before(&EcsLimits::default(), &run(request), SECOND) else {
        panic!("it was forwarded");
    };
    assert_eq!(again.value()["tasks"], json!([{"taskArn": "task-1"}]));
}

#[test]
fn the_same_token_with_other_parameters_conflicts_and_names_the_tasks() {
    let mut state = launched(&json!({"clientToken": "t", "taskDefinition": "d"}));
    let other = run(json!({"clientToken": "t", "taskDefinition": "e"}));
    let Verdict::Answer(answer) = state.before(&EcsLimits::default(), &other, SECOND) else {
        panic!("it was forwarded");
    };
    assert_eq!(answer.error_code().unwrap(), "ConflictException");
    assert_eq!(answer.value()["resourceIds"], json!(["task-1"]));
}

#[test]
fn a_token_is_forgotten_after_a_day() {
    let request = json!({"clientToken": "t"});
    let day = 24 * 3600 * SECOND;
    assert_eq!(judged(&mut launched(&request), request.clone(), day - SECOND), "success");
    assert_eq!(judged(&mut launched(&request), request, day), "forward");
}

#[test]
fn a_second_call_while_the_first_is_under_way_is_to_be_retried() {
    let mut state = State::default();
    let request = json!({"clientToken": "t"});
    assert_eq!(judged(&mut state, request.clone(), Duration::ZERO), "forward");
    assert_eq!(judged(&mut state, request.clone(), Duration::ZERO), "ServerException");
    state.gone(&run(request.clone()));
    assert_eq!(judged(&mut state, request, Duration::ZERO), "forward");
}

#[test]
fn a_call_that_launched_nothing_does_not_bind_its_token() {
    let mut state = State::default();
    let call = run(json!({"clientToken": "t"}));
    state.before(&EcsLimits::default(), &call, Duration::ZERO);
    state.after(&call, &Answer::json(&call, &json!({"tasks": [], "failures": [{}]})), Duration::ZERO);
    assert_eq!(judged(&mut state, call.json, Duration::ZERO), "forward");
}

#[test]
fn twenty_calls_a_second_and_no_burst_beyond() {
    let mut state = State::default();
    let forwarded = |state: &mut State, now| (0..30).filter(|_| judged(state, json!({}), now) == "forward").count();
    assert_eq!(forwarded(&mut state, Duration::ZERO), 20);
    assert_eq!(judged(&mut state, json!({}), Duration::ZERO), "ThrottlingException");
    assert_eq!(forwarded(&mut state, SECOND), 20);
}

#[test]
fn a_hundred_launches_at_once_and_then_twenty_a_second() {
    let mut state = State::default();
    let ten = json!({"count": 10});
    let forwarded = |state: &mut State, now| (0..15).filter(|_| judged(state, ten.clone(), now) == "forward").count();
    assert_eq!(forwarded(&mut state, Duration::ZERO), 10);
    assert_eq!(forwarded(&mut state, SECOND), 2);
    let spot = json!({"count": 10, "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT"}]});
    assert_eq!(judged(&mut state, spot, SECOND), "forward");
}

#[test]
fn started_by_is_the_only_filter_of_a_list() {
    let of = |filters: Value| list_refusal(&call(Service::Ecs, "ListTasks", filters)).is_none();
    assert!(of(json!({"cluster": "c", "startedBy": "s", "desiredStatus": "STOPPED"})));
    assert!(of(json!({"family": "f", "serviceName": "s"})));
    assert!(!of(json!({"startedBy": "s", "family": "f"})));
    assert!(!of(json!({"startedBy": "s", "serviceName": "f"})));
}
